import Foundation

/// An RGB image: three bytes a pixel, row by row, upright.
struct RgbImage: Equatable {
    let width: Int
    let height: Int
    var bytes: [UInt8]
}

/// A photo's way into the model, as edgepress took it in training: resized by `ModelFacts.resize` with a bilinear filter whose support grows with the
/// reduction (so it does not alias; Core Graphics' own scaling is another filter). The arithmetic is Pillow's: the bytes are the same, or one apart where a
/// photo is more than six times too large. Transparency is laid on white before (`Classifier.decode`).
enum Preprocess {
    private static let reducingGap = 3.0
    private static let precisionBits = 22

    static func pixels(_ photo: RgbImage) -> RgbImage {
        fit(photo, ModelFacts.inputWidth, ModelFacts.inputHeight, rule: ModelFacts.resize)
    }

    static func fit(_ image: RgbImage, _ width: Int, _ height: Int, rule: String) -> RgbImage {
        let (w, h) = (Double(image.width), Double(image.height))
        switch rule {
        case "stretch":
            return resize(image, width, height, 0, 0, w, h)
        case "crop": // the largest centered part of the right shape
            let scale = max(Double(width) / w, Double(height) / h)
            let left = max(0, (w - Double(width) / scale) / 2)
            let top = max(0, (h - Double(height) / scale) / 2)
            return resize(image, width, height, left, top, w - left, h - top)
        case "pad": // all of it, between black bars
            let scale = min(Double(width) / w, Double(height) / h)
            let innerWidth = min(width, max(1, Int((w * scale).rounded(.toNearestOrEven))))
            let innerHeight = min(height, max(1, Int((h * scale).rounded(.toNearestOrEven))))
            let inner = resize(image, innerWidth, innerHeight, 0, 0, w, h)
            var bytes = [UInt8](repeating: 0, count: 3 * width * height)
            for y in 0..<innerHeight {
                let at = 3 * ((y + (height - innerHeight) / 2) * width + (width - innerWidth) / 2)
                bytes.replaceSubrange(at..<(at + 3 * innerWidth), with: inner.bytes[(3 * y * innerWidth)..<(3 * (y + 1) * innerWidth)])
            }
            return RgbImage(width: width, height: height, bytes: bytes)
        default:
            preconditionFailure("unknown resize rule \(rule)")
        }
    }

    private static func resize(_ image: RgbImage, _ width: Int, _ height: Int, _ left: Double, _ top: Double, _ right: Double, _ bottom: Double) -> RgbImage {
        let whole = left == 0 && top == 0 && right == Double(image.width) && bottom == Double(image.height)
        if whole && width == image.width && height == image.height { return image }
        let fx = max(1, Int((right - left) / Double(width) / reducingGap))
        let fy = max(1, Int((bottom - top) / Double(height) / reducingGap))
        if fx == 1 && fy == 1 { return vertical(horizontal(image, width, left, right), height, top, bottom) }
        let sx = 0.5 * (right - left) / Double(width) // what the filter reaches beyond the box
        let sy = 0.5 * (bottom - top) / Double(height)
        let (x0, y0) = (max(0, Int(left - sx)), max(0, Int(top - sy)))
        let (x1, y1) = (min(image.width, Int((right + sx).rounded(.up))), min(image.height, Int((bottom + sy).rounded(.up))))
        let small = reduce(image, fx, fy, x0, y0, x1, y1)
        let rows = horizontal(small, width, (left - Double(x0)) / Double(fx), (right - Double(x0)) / Double(fx))
        return vertical(rows, height, (top - Double(y0)) / Double(fy), (bottom - Double(y0)) / Double(fy))
    }

    /// The mean of each block of fx x fy pixels; blocks at the edge may be smaller.
    private static func reduce(_ image: RgbImage, _ fx: Int, _ fy: Int, _ x0: Int, _ y0: Int, _ x1: Int, _ y1: Int) -> RgbImage {
        let (width, height) = ((x1 - x0 + fx - 1) / fx, (y1 - y0 + fy - 1) / fy)
        var bytes = [UInt8](repeating: 0, count: 3 * width * height)
        for y in 0..<height {
            for x in 0..<width {
                let (us, vs) = ((x0 + x * fx)..<min(x1, x0 + (x + 1) * fx), (y0 + y * fy)..<min(y1, y0 + (y + 1) * fy))
                for c in 0..<3 {
                    var sum = 0
                    for v in vs { for u in us { sum += Int(image.bytes[3 * (v * image.width + u) + c]) } }
                    bytes[3 * (y * width + x) + c] = UInt8((sum + us.count * vs.count / 2) / (us.count * vs.count))
                }
            }
        }
        return RgbImage(width: width, height: height, bytes: bytes)
    }

    private static func horizontal(_ image: RgbImage, _ width: Int, _ from: Double, _ to: Double) -> RgbImage {
        if width == image.width && from == 0 && to == Double(width) { return image }
        var bytes = [UInt8](repeating: 0, count: 3 * width * image.height)
        for x in 0..<width {
            let (first, weights) = Self.weights(x, width, image.width, from, to)
            for y in 0..<image.height {
                for c in 0..<3 {
                    var sum = 1 << (precisionBits - 1)
                    for (k, weight) in weights.enumerated() { sum += Int(image.bytes[3 * (y * image.width + first + k) + c]) * weight }
                    bytes[3 * (y * width + x) + c] = UInt8(min(max(sum >> precisionBits, 0), 255))
                }
            }
        }
        return RgbImage(width: width, height: image.height, bytes: bytes)
    }

    private static func vertical(_ image: RgbImage, _ height: Int, _ from: Double, _ to: Double) -> RgbImage {
        if height == image.height && from == 0 && to == Double(height) { return image }
        let row = 3 * image.width
        var bytes = [UInt8](repeating: 0, count: row * height)
        for y in 0..<height {
            let (first, weights) = Self.weights(y, height, image.height, from, to)
            for i in 0..<row {
                var sum = 1 << (precisionBits - 1)
                for (k, weight) in weights.enumerated() { sum += Int(image.bytes[(first + k) * row + i]) * weight }
                bytes[y * row + i] = UInt8(min(max(sum >> precisionBits, 0), 255))
            }
        }
        return RgbImage(width: image.width, height: height, bytes: bytes)
    }

    /// First source pixel of an output pixel, and the fixed-point weights of it and those after it.
    private static func weights(_ at: Int, _ size: Int, _ available: Int, _ from: Double, _ to: Double) -> (Int, [Int]) {
        let scale = (to - from) / Double(size)
        let support = max(scale, 1)
        let center = from + (Double(at) + 0.5) * scale
        let first = max(0, Int(center - support + 0.5))
        let last = min(available, Int(center + support + 0.5))
        let raw = (first..<last).map { max(0, 1 - abs((Double($0) - center + 0.5) / support)) }
        let sum = raw.reduce(0, +)
        return (first, raw.map { Int($0 / sum * Double(1 << precisionBits) + 0.5) })
    }

    /// The bytes of the model's input tensor.
    static func input(_ image: RgbImage) -> Data {
        let count = image.width * image.height * ModelFacts.channels
        let values = (0..<count).map { value(image, $0 / ModelFacts.channels, $0 % ModelFacts.channels) }
        if ModelFacts.inputType == "float32" { return values.withUnsafeBytes { Data($0) } }
        let signed = ModelFacts.inputType == "int8"
        return Data(values.map { value in
            if ModelFacts.normalizationInside { return signed ? UInt8(value) ^ 0x80 : UInt8(value) }
            let stored = Int((value / ModelFacts.inputScale!).rounded(.toNearestOrEven)) + ModelFacts.inputZeroPoint!
            return signed ? UInt8(bitPattern: Int8(min(max(stored, -128), 127))) : UInt8(min(max(stored, 0), 255))
        })
    }

    private static func value(_ image: RgbImage, _ pixel: Int, _ channel: Int) -> Float {
        let flipped = !ModelFacts.normalizationInside && ModelFacts.channelOrder == "bgr"
        let c = flipped ? ModelFacts.channels - 1 - channel : channel
        func rgb(_ of: Int) -> Float { Float(image.bytes[3 * pixel + of]) }
        let value = ModelFacts.channels == 1 ? (0.299 * rgb(0) + 0.587 * rgb(1) + 0.114 * rgb(2)).rounded(.toNearestOrEven) : rgb(c) // ITU-R 601
        return ModelFacts.normalizationInside ? value : value * ModelFacts.scale[c] + ModelFacts.offset[c]
    }
}
