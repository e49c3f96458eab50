package org.example.classifier

import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import java.util.concurrent.Executors

/** Pick a photo, see what the model says. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor() // the model is asked from this thread only
    private lateinit var answer: TextView
    private val picker = registerForActivityResult(PickVisualMedia()) { uri -> uri?.let(::show) }
    private val classifier by lazy { Classifier(this) }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        answer = TextView(this).apply { textSize = 20f }
        val button = Button(this).apply {
            setText(R.string.choose_photo)
            setOnClickListener { picker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }
        }
        setContentView(LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            addView(button)
            addView(answer)
        })
    }

    private fun show(photo: Uri) = worker.execute {
        val text = runCatching { classifier.classify(ImageDecoder.createSource(contentResolver, photo)) }
            .fold({ guesses -> guesses.joinToString("\n") { "${it.label}: ${"%.1f".format(100 * it.probability)} %" } }, { it.message ?: it.toString() })
        runOnUiThread { answer.text = text }
    }

    override fun onDestroy() {
        worker.execute { runCatching { classifier.close() } }
        worker.shutdown()
        super.onDestroy()
    }
}
