import CryptoKit
import Foundation
import ImageIO
import TensorFlowLite
import UIKit

/// One class and how probable it is, 0 to 1.
struct Guess {
    let label: String
    let probability: Float
}

enum ClassifierError: LocalizedError {
    case damagedModel, unreadablePhoto

    var errorDescription: String? {
        switch self {
        case .damagedModel: return "\(ModelFacts.modelFile) is not the file of the bundle: it is damaged or was replaced"
        case .unreadablePhoto: return "this file is no photo that iOS can read"
        }
    }
}

/// The bundle's model. An actor: it is asked from one place at a time.
actor Classifier {
    private let interpreter: Interpreter

    init() throws {
        let name = ModelFacts.modelFile as NSString
        guard let path = Bundle.main.path(forResource: name.deletingPathExtension, ofType: name.pathExtension),
              let data = FileManager.default.contents(atPath: path),
              SHA256.hash(data: data).map({ String(format: "%02x", $0) }).joined() == ModelFacts.modelSha256
        else { throw ClassifierError.damagedModel }
        interpreter = try Interpreter(modelPath: path)
        try interpreter.allocateTensors()
    }

    /// Probabilities in the order of `ModelFacts.labels`.
    func probabilities(_ photo: Data) throws -> [Float] {
        try interpreter.copy(Preprocess.input(Preprocess.pixels(Self.decode(photo))), toInputAt: 0)
        try interpreter.invoke()
        let scores = Self.scores(try interpreter.output(at: 0).data)
        return ModelFacts.output == "logits" ? Self.softmax(scores) : scores
    }

    /// The most probable classes; the first one is "unknown" below `ModelFacts.rejectThreshold`.
    func classify(_ photo: Data, top: Int = 3) throws -> [Guess] {
        let scores = try probabilities(photo)
        let best = scores.indices.sorted { scores[$0] > scores[$1] }.prefix(top).map { Guess(label: ModelFacts.labels[$0], probability: scores[$0]) }
        guard let threshold = ModelFacts.rejectThreshold, best[0].probability < threshold else { return best }
        return [Guess(label: "unknown", probability: best[0].probability)] + best
    }

    /// The photo upright by its EXIF, in sRGB, on white.
    static func decode(_ photo: Data) throws -> RgbImage {
        guard let source = CGImageSourceCreateWithData(photo as CFData, nil),
              let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
              let wide = facts[kCGImagePropertyPixelWidth] as? Int, let high = facts[kCGImagePropertyPixelHeight] as? Int
        else { throw ClassifierError.unreadablePhoto }
        let options: [CFString: Any] = [kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceCreateThumbnailWithTransform: true,
                                        kCGImageSourceThumbnailMaxPixelSize: max(wide, high)] // of full size: it is only turned
        guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary), let space = CGColorSpace(name: CGColorSpace.sRGB),
              let context = CGContext(data: nil, width: image.width, height: image.height, bitsPerComponent: 8, bytesPerRow: 4 * image.width, space: space,
                                      bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { throw ClassifierError.unreadablePhoto }
        let area = CGRect(x: 0, y: 0, width: image.width, height: image.height)
        context.setFillColor(UIColor.white.cgColor)
        context.fill(area)
        context.draw(image, in: area)
        guard let data = context.data else { throw ClassifierError.unreadablePhoto }
        let rgbx = UnsafeRawBufferPointer(start: data, count: 4 * image.width * image.height)
        var bytes = [UInt8](repeating: 0, count: 3 * image.width * image.height)
        for pixel in 0..<(image.width * image.height) {
            for channel in 0..<3 { bytes[3 * pixel + channel] = rgbx[4 * pixel + channel] }
        }
        return RgbImage(width: image.width, height: image.height, bytes: bytes)
    }

    private static func scores(_ data: Data) -> [Float] {
        switch ModelFacts.outputType {
        case "float32": return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        case "int8": return data.map { Float(Int(Int8(bitPattern: $0)) - ModelFacts.outputZeroPoint!) * ModelFacts.outputScale! }
        default: return data.map { Float(Int($0) - ModelFacts.outputZeroPoint!) * ModelFacts.outputScale! }
        }
    }

    private static func softmax(_ logits: [Float]) -> [Float] {
        let largest = logits.max() ?? 0
        let powers = logits.map { exp($0 - largest) }
        let sum = powers.reduce(0, +)
        return powers.map { $0 / sum }
    }
}
