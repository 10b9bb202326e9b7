//! Compiles `graph/graph.cpp`, which lets tests build graphs for other machines.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=graph");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(false).file("graph/graph.cpp");
    for dir in env::split_paths(&env::var_os("DEP_MLX_INCLUDE").unwrap_or_default()) {
        build.flag("-isystem").flag(dir);
    }
    build.compile("mlx_llamba_graph");
}
