package org.example.classifier

import android.graphics.ImageDecoder
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith
import kotlin.math.abs

/** The golden photos of the bundle have to get the same answers on the phone: `gradle connectedAndroidTest`. */
@RunWith(AndroidJUnit4::class)
class GoldenTest {
    private val app = InstrumentationRegistry.getInstrumentation().targetContext
    private val test = InstrumentationRegistry.getInstrumentation().context

    @Test
    fun goldenPhotosGetTheAnswersOfTheBundle() {
        val golden = JSONObject(test.assets.open("golden.json").bufferedReader().readText())
        val images = golden.getJSONArray("images")
        Classifier(app).use { classifier ->
            for (i in 0 until images.length()) {
                val image = images.getJSONObject(i)
                val expected = image.getJSONArray("probabilities")
                val answer = classifier.probabilities(ImageDecoder.createSource(test.assets, image.getString("file")))
                assertEquals(image.getString("file"), expected.length(), answer.size)
                val largest = answer.indices.maxOf { abs(answer[it] - expected.getDouble(it)) }
                assert(largest <= golden.getDouble("tolerance")) { "${image.getString("file")}: a probability is off by $largest" }
            }
        }
    }
}
