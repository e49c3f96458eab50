import XCTest
@testable import Classifier

/// The golden photos of the bundle have to get the same answers on the phone.
final class GoldenTests: XCTestCase {
    private struct Golden: Decodable {
        struct Image: Decodable {
            let file: String
            let probabilities: [Double]
        }
        let tolerance: Double
        let images: [Image]
    }

    func testGoldenPhotosGetTheAnswersOfTheBundle() async throws {
        let bundle = Bundle(for: Self.self)
        let golden = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: try XCTUnwrap(bundle.url(forResource: "golden", withExtension: "json"))))
        let classifier = try Classifier()
        for image in golden.images {
            let name = (image.file as NSString).lastPathComponent as NSString
            let photo = try Data(contentsOf: try XCTUnwrap(bundle.url(forResource: name.deletingPathExtension, withExtension: name.pathExtension)))
            let answer = try await classifier.probabilities(photo)
            XCTAssertEqual(answer.count, image.probabilities.count, image.file)
            for (ours, expected) in zip(answer, image.probabilities) { XCTAssertEqual(Double(ours), expected, accuracy: golden.tolerance, image.file) }
        }
    }
}
