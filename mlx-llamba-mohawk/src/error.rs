//! Everything that can go wrong, one variant per cause.

/// Result of the crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what was expected there.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Loading, tokenizing or running a Llamba failed.
    #[error(transparent)]
    Llamba(#[from] mlx_llamba::Error),
    /// MLX refused an operation.
    #[error("MLX: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}
