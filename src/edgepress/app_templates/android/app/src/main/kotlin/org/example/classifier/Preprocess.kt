package org.example.classifier

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** An RGB image: three bytes a pixel, row by row, upright. */
class RgbImage(val width: Int, val height: Int, val bytes: ByteArray)

/**
 * A photo's way into the model, as edgepress took it in training: transparency on white, then resized by [ModelFacts.RESIZE] with a bilinear filter whose
 * support grows with the reduction (so it does not alias; Android's own scaling does). The arithmetic is Pillow's: the bytes are the same, or one apart
 * where a photo is more than six times too large. Nothing here needs Android.
 */
object Preprocess {
    private const val REDUCING_GAP = 3.0
    private const val PRECISION_BITS = 22

    /** Photo in 0xAARRGGBB, not premultiplied -> pixels of the model's input size. */
    fun pixels(argb: IntArray, width: Int, height: Int): RgbImage = fit(onWhite(argb, width, height), ModelFacts.INPUT_WIDTH, ModelFacts.INPUT_HEIGHT, ModelFacts.RESIZE)

    fun onWhite(argb: IntArray, width: Int, height: Int): RgbImage {
        val bytes = ByteArray(3 * width * height)
        for (i in argb.indices) {
            val alpha = argb[i] ushr 24
            for (c in 0..2) {
                val value = (argb[i] ushr (16 - 8 * c)) and 255
                bytes[3 * i + c] = ((value * alpha + 255 * (255 - alpha) + 127) / 255).toByte()
            }
        }
        return RgbImage(width, height, bytes)
    }

    fun fit(image: RgbImage, width: Int, height: Int, rule: String): RgbImage = when (rule) {
        "stretch" -> resize(image, width, height, 0.0, 0.0, image.width.toDouble(), image.height.toDouble())
        "crop" -> { // the largest centered part of the right shape
            val scale = max(width / image.width.toDouble(), height / image.height.toDouble())
            val left = max(0.0, (image.width - width / scale) / 2)
            val top = max(0.0, (image.height - height / scale) / 2)
            resize(image, width, height, left, top, image.width - left, image.height - top)
        }
        "pad" -> { // all of it, between black bars
            val scale = min(width / image.width.toDouble(), height / image.height.toDouble())
            val w = min(width, max(1, round(image.width * scale).toInt()))
            val h = min(height, max(1, round(image.height * scale).toInt()))
            val inner = resize(image, w, h, 0.0, 0.0, image.width.toDouble(), image.height.toDouble())
            val bytes = ByteArray(3 * width * height)
            for (y in 0 until h) inner.bytes.copyInto(bytes, 3 * ((y + (height - h) / 2) * width + (width - w) / 2), 3 * y * w, 3 * (y + 1) * w)
            RgbImage(width, height, bytes)
        }
        else -> error("unknown resize rule $rule")
    }

    private fun resize(image: RgbImage, width: Int, height: Int, left: Double, top: Double, right: Double, bottom: Double): RgbImage {
        val whole = left == 0.0 && top == 0.0 && right == image.width.toDouble() && bottom == image.height.toDouble()
        if (whole && width == image.width && height == image.height) return image
        val fx = max(1, ((right - left) / width / REDUCING_GAP).toInt())
        val fy = max(1, ((bottom - top) / height / REDUCING_GAP).toInt())
        if (fx == 1 && fy == 1) return vertical(horizontal(image, width, left, right), height, top, bottom)
        val sx = 0.5 * (right - left) / width // what the filter reaches beyond the box
        val sy = 0.5 * (bottom - top) / height
        val x0 = max(0, (left - sx).toInt())
        val y0 = max(0, (top - sy).toInt())
        val x1 = min(image.width, ceil(right + sx).toInt())
        val y1 = min(image.height, ceil(bottom + sy).toInt())
        val small = reduce(image, fx, fy, x0, y0, x1, y1)
        return vertical(horizontal(small, width, (left - x0) / fx, (right - x0) / fx), height, (top - y0) / fy, (bottom - y0) / fy)
    }

    /** The mean of each block of fx x fy pixels; blocks at the edge may be smaller. */
    private fun reduce(image: RgbImage, fx: Int, fy: Int, x0: Int, y0: Int, x1: Int, y1: Int): RgbImage {
        val width = (x1 - x0 + fx - 1) / fx
        val height = (y1 - y0 + fy - 1) / fy
        val bytes = ByteArray(3 * width * height)
        for (y in 0 until height) for (x in 0 until width) for (c in 0..2) {
            var sum = 0
            var count = 0
            for (v in y0 + y * fy until min(y1, y0 + (y + 1) * fy)) for (u in x0 + x * fx until min(x1, x0 + (x + 1) * fx)) {
                sum += image.bytes[3 * (v * image.width + u) + c].toInt() and 255
                count++
            }
            bytes[3 * (y * width + x) + c] = ((sum + count / 2) / count).toByte()
        }
        return RgbImage(width, height, bytes)
    }

    private fun horizontal(image: RgbImage, width: Int, from: Double, to: Double): RgbImage {
        if (width == image.width && from == 0.0 && to == width.toDouble()) return image
        val bytes = ByteArray(3 * width * image.height)
        for (x in 0 until width) {
            val (first, weights) = weights(x, width, image.width, from, to)
            for (y in 0 until image.height) for (c in 0..2) {
                var sum = 1L shl (PRECISION_BITS - 1)
                for (k in weights.indices) sum += (image.bytes[3 * (y * image.width + first + k) + c].toLong() and 255) * weights[k]
                bytes[3 * (y * width + x) + c] = (sum shr PRECISION_BITS).coerceIn(0, 255).toByte()
            }
        }
        return RgbImage(width, image.height, bytes)
    }

    private fun vertical(image: RgbImage, height: Int, from: Double, to: Double): RgbImage {
        if (height == image.height && from == 0.0 && to == height.toDouble()) return image
        val row = 3 * image.width
        val bytes = ByteArray(row * height)
        for (y in 0 until height) {
            val (first, weights) = weights(y, height, image.height, from, to)
            for (i in 0 until row) {
                var sum = 1L shl (PRECISION_BITS - 1)
                for (k in weights.indices) sum += (image.bytes[(first + k) * row + i].toLong() and 255) * weights[k]
                bytes[y * row + i] = (sum shr PRECISION_BITS).coerceIn(0, 255).toByte()
            }
        }
        return RgbImage(image.width, height, bytes)
    }

    /** First source pixel of an output pixel, and the fixed-point weights of it and those after it. */
    private fun weights(at: Int, size: Int, available: Int, from: Double, to: Double): Pair<Int, LongArray> {
        val scale = (to - from) / size
        val support = max(scale, 1.0)
        val center = from + (at + 0.5) * scale
        val first = max(0, (center - support + 0.5).toInt())
        val last = min(available, (center + support + 0.5).toInt())
        val raw = DoubleArray(last - first) { max(0.0, 1 - abs((it + first - center + 0.5) / support)) }
        val sum = raw.sum()
        return first to LongArray(raw.size) { (raw[it] / sum * (1 shl PRECISION_BITS) + 0.5).toLong() }
    }

    /** The input of a float32 model. */
    fun floats(image: RgbImage): FloatArray = FloatArray(image.width * image.height * ModelFacts.CHANNELS) { value(image, it / ModelFacts.CHANNELS, it % ModelFacts.CHANNELS) }

    /** The input of a uint8 or int8 model, byte for byte. */
    fun bytes(image: RgbImage): ByteArray {
        val signed = ModelFacts.INPUT_TYPE == "int8"
        return ByteArray(image.width * image.height * ModelFacts.CHANNELS) {
            val value = value(image, it / ModelFacts.CHANNELS, it % ModelFacts.CHANNELS)
            when {
                ModelFacts.NORMALIZATION_INSIDE -> (if (signed) value.toInt() xor 0x80 else value.toInt()).toByte()
                else -> (round(value / ModelFacts.INPUT_SCALE!!).toInt() + ModelFacts.INPUT_ZERO_POINT!!).coerceIn(if (signed) -128 else 0, if (signed) 127 else 255).toByte()
            }
        }
    }

    private fun value(image: RgbImage, pixel: Int, channel: Int): Float {
        val flipped = !ModelFacts.NORMALIZATION_INSIDE && ModelFacts.CHANNEL_ORDER == "bgr"
        val c = if (flipped) ModelFacts.CHANNELS - 1 - channel else channel
        fun rgb(of: Int) = (image.bytes[3 * pixel + of].toInt() and 255).toFloat()
        val value = if (ModelFacts.CHANNELS == 1) round(0.299f * rgb(0) + 0.587f * rgb(1) + 0.114f * rgb(2)) else rgb(c) // ITU-R 601
        return if (ModelFacts.NORMALIZATION_INSIDE) value else value * ModelFacts.SCALE[c] + ModelFacts.OFFSET[c]
    }
}
