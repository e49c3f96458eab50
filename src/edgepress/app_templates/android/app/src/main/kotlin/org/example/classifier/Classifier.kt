package org.example.classifier

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import java.security.DigestInputStream
import java.security.MessageDigest
import kotlin.math.exp

/** One class and how probable it is, 0 to 1. */
data class Guess(val label: String, val probability: Float)

/** The bundle's model. Open it once, ask it from one thread at a time, close it. */
class Classifier(context: Context) : AutoCloseable {
    private val model: CompiledModel

    init {
        check(sha256(context) == ModelFacts.MODEL_SHA256) { "${ModelFacts.MODEL_FILE} is not the file of the bundle: it is damaged or was replaced" }
        model = CompiledModel.create(context.assets, ModelFacts.MODEL_FILE, CompiledModel.Options(Accelerator.CPU))
    }

    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** Probabilities in the order of [ModelFacts.LABELS]. */
    fun probabilities(source: ImageDecoder.Source): FloatArray {
        val bitmap = decode(source)
        val argb = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val pixels = Preprocess.pixels(argb, bitmap.width, bitmap.height)
        if (ModelFacts.INPUT_TYPE == "float32") inputs[0].writeFloat(Preprocess.floats(pixels)) else inputs[0].writeInt8(Preprocess.bytes(pixels))
        model.run(inputs, outputs)
        val scores = if (ModelFacts.OUTPUT_TYPE == "float32") outputs[0].readFloat() else dequantized(outputs[0].readInt8())
        return if (ModelFacts.OUTPUT == "logits") softmax(scores) else scores
    }

    /** The most probable classes; the first one is "unknown" below [ModelFacts.REJECT_THRESHOLD]. */
    fun classify(source: ImageDecoder.Source, top: Int = 3): List<Guess> {
        val scores = probabilities(source)
        val best = scores.indices.sortedByDescending { scores[it] }.take(top).map { Guess(ModelFacts.LABELS[it], scores[it]) }
        val threshold = ModelFacts.REJECT_THRESHOLD ?: return best
        return if (best.first().probability < threshold) listOf(Guess("unknown", best.first().probability)) + best else best
    }

    override fun close() = model.close()

    private fun decode(source: ImageDecoder.Source): Bitmap = ImageDecoder.decodeBitmap(source) { decoder, _, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // pixels are read
        decoder.isUnpremultipliedRequired = true // transparency is laid on white by Preprocess
        decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
    }

    private fun dequantized(bytes: ByteArray) = FloatArray(bytes.size) {
        val stored = if (ModelFacts.OUTPUT_TYPE == "uint8") bytes[it].toInt() and 255 else bytes[it].toInt()
        (stored - ModelFacts.OUTPUT_ZERO_POINT!!) * ModelFacts.OUTPUT_SCALE!!
    }

    private fun softmax(logits: FloatArray): FloatArray {
        val powers = FloatArray(logits.size) { exp(logits[it] - logits.max()) }
        val sum = powers.sum()
        return FloatArray(logits.size) { powers[it] / sum }
    }

    private fun sha256(context: Context): String {
        val digest = MessageDigest.getInstance("SHA-256")
        DigestInputStream(context.assets.open(ModelFacts.MODEL_FILE), digest).use { stream ->
            val block = ByteArray(1 shl 16)
            while (stream.read(block) >= 0) { /* the digest reads along */ }
        }
        return digest.digest().joinToString("") { "%02x".format(it) }
    }
}
