//! Setters of options that other crates cannot build field by field.

/// Writes a method for each field that sets it, wrapped in the path after `=>` if there is one.
macro_rules! setters {
    ($($field:ident: $type:ty $(=> $wrap:path)?;)*) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $($wrap)?($field);
            self
        }
    )*};
}
pub(crate) use setters;
