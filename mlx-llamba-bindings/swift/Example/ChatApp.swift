import MlxLlamba
import SwiftUI

@main
struct ChatApp: App {
    var body: some Scene {
        WindowGroup("Llamba") { ChatView() }
    }
}

/// A conversation with the built-in model.
@MainActor
final class Conversation: ObservableObject {
    @Published var lines: [String] = []
    @Published var busy = true
    private var chat: Chat?

    func load() async {
        do {
            // Loading blocks its thread.
            chat = try await Task.detached { try Llamba(model: nil).chat() }.value
        } catch {
            lines.append("Error: \(error)")
        }
        busy = false
    }

    func send(_ text: String) async {
        guard let chat, !busy else { return }
        busy = true
        lines += ["You: \(text)", ""]
        do {
            let reply = try chat.send(text: text, options: GenerationOptions(maxTokens: 200))
            for try await piece in reply.pieces {
                lines[lines.count - 1] += piece
            }
        } catch {
            lines.append("Error: \(error)")
        }
        busy = false
    }
}

struct ChatView: View {
    @StateObject private var conversation = Conversation()
    @State private var text = ""

    var body: some View {
        VStack {
            List(Array(conversation.lines.enumerated()), id: \.offset) { Text($0.element) }
            TextField("Tell me about a red ball.", text: $text)
                .disabled(conversation.busy)
                .onSubmit {
                    let sent = text
                    text = ""
                    Task { await conversation.send(sent) }
                }
                .padding()
        }
        .task { await conversation.load() }
    }
}
