/// The pieces of a text, for `for try await`.
public struct TokenSequence: AsyncSequence {
    public typealias Element = String
    let stream: TokenStream

    public struct Iterator: AsyncIteratorProtocol {
        let stream: TokenStream

        public mutating func next() async throws -> String? {
            try await withTaskCancellationHandler {
                try await stream.next()?.text
            } onCancel: {
                stream.cancel()
            }
        }
    }

    public func makeAsyncIterator() -> Iterator { Iterator(stream: stream) }
}

extension TokenStream {
    /// The pieces of the text. Cancelling the task ends the generation.
    public var pieces: TokenSequence { TokenSequence(stream: self) }
}
