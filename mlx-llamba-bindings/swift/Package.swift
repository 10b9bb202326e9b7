// swift-tools-version:5.9
// scripts/swift-package puts the generated sources and the libraries beside this file.
import PackageDescription

let package = Package(
    name: "MlxLlamba",
    platforms: [.macOS(.v14)],
    products: [.library(name: "MlxLlamba", targets: ["MlxLlamba"])],
    targets: [
        .binaryTarget(name: "mlx_llamba_nativeFFI", path: "MlxLlamba.xcframework"),
        .target(name: "MlxLlamba", dependencies: ["mlx_llamba_nativeFFI"]),
        .executableTarget(name: "Example", dependencies: ["MlxLlamba"], path: "Example"),
    ]
)
