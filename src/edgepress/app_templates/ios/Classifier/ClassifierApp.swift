import PhotosUI
import SwiftUI

@main
struct ClassifierApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}

/// Pick a photo, see what the model says.
struct ContentView: View {
    @State private var isPicking = false
    @State private var answer = ""
    @State private var classifier: Classifier?

    var body: some View {
        VStack(spacing: 24) {
            Button("Choose a photo") { isPicking = true }
            Text(answer)
        }
        .padding()
        .sheet(isPresented: $isPicking) { PhotoPicker { photo in Task { await show(photo) } } }
    }

    private func show(_ photo: Data) async {
        do {
            let model = try classifier ?? Classifier()
            classifier = model
            answer = try await model.classify(photo).map { "\($0.label): \(String(format: "%.1f", 100 * $0.probability)) %" }.joined(separator: "\n")
        } catch {
            answer = error.localizedDescription
        }
    }
}

/// The system's picker: it needs no permission. The file comes as it is, with its EXIF.
struct PhotoPicker: UIViewControllerRepresentable {
    let onPick: (Data) -> Void

    func makeUIViewController(context: Context) -> PHPickerViewController {
        var configuration = PHPickerConfiguration()
        configuration.filter = .images
        let picker = PHPickerViewController(configuration: configuration)
        picker.delegate = context.coordinator
        return picker
    }

    func updateUIViewController(_ controller: PHPickerViewController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(onPick: onPick) }

    final class Coordinator: NSObject, PHPickerViewControllerDelegate {
        private let onPick: (Data) -> Void

        init(onPick: @escaping (Data) -> Void) { self.onPick = onPick }

        func picker(_ picker: PHPickerViewController, didFinishPicking results: [PHPickerResult]) {
            picker.dismiss(animated: true)
            results.first?.itemProvider.loadDataRepresentation(forTypeIdentifier: "public.image") { data, _ in
                guard let data else { return }
                DispatchQueue.main.async { self.onPick(data) }
            }
        }
    }
}
