//! Rust values as parts of a cache key.

use coda_protocol::cache_key::KeyPart;

/// One value that may stand in a cache key.
pub trait IntoKeyPart {
    fn into_key_part(self) -> KeyPart;
}

/// The parts of a cache key: an array, a slice or a vector of one type, or a tuple of several.
pub trait IntoKey {
    fn into_key(self) -> Vec<KeyPart>;
}

macro_rules! ints {
    ($($int:ty),*) => {$(
        impl IntoKeyPart for $int {
            fn into_key_part(self) -> KeyPart {
                KeyPart::Int(i64::from(self))
            }
        }
    )*};
}

ints!(i8, i16, i32, i64, u8, u16, u32);

impl IntoKeyPart for KeyPart {
    fn into_key_part(self) -> KeyPart {
        self
    }
}

impl IntoKeyPart for bool {
    fn into_key_part(self) -> KeyPart {
        KeyPart::Bool(self)
    }
}

impl IntoKeyPart for f64 {
    fn into_key_part(self) -> KeyPart {
        KeyPart::Float(self)
    }
}

impl IntoKeyPart for &str {
    fn into_key_part(self) -> KeyPart {
        KeyPart::Str(self.to_owned())
    }
}

impl IntoKeyPart for &String {
    fn into_key_part(self) -> KeyPart {
        KeyPart::Str(self.clone())
    }
}

impl IntoKeyPart for String {
    fn into_key_part(self) -> KeyPart {
        KeyPart::Str(self)
    }
}

impl<T: IntoKeyPart> IntoKeyPart for Option<T> {
    fn into_key_part(self) -> KeyPart {
        self.map_or(KeyPart::Null, IntoKeyPart::into_key_part)
    }
}

impl<T: IntoKeyPart, const N: usize> IntoKey for [T; N] {
    fn into_key(self) -> Vec<KeyPart> {
        self.into_iter().map(IntoKeyPart::into_key_part).collect()
    }
}

impl<T: IntoKeyPart> IntoKey for Vec<T> {
    fn into_key(self) -> Vec<KeyPart> {
        self.into_iter().map(IntoKeyPart::into_key_part).collect()
    }
}

impl<T: IntoKeyPart + Clone> IntoKey for &[T] {
    fn into_key(self) -> Vec<KeyPart> {
        self.iter().cloned().map(IntoKeyPart::into_key_part).collect()
    }
}

macro_rules! tuples {
    ($(($($part:ident),+))*) => {$(
        impl<$($part: IntoKeyPart),+> IntoKey for ($($part,)+) {
            fn into_key(self) -> Vec<KeyPart> {
                #[allow(non_snake_case, reason = "the macro names values after their types")]
                let ($($part,)+) = self;
                vec![$($part.into_key_part()),+]
            }
        }
    )*};
}

tuples!((A)(A, B)(A, B, C)(A, B, C, D));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_type_and_of_several() {
        assert_eq!([1, 2].into_key(), [KeyPart::Int(1), KeyPart::Int(2)]);
        assert_eq!(("a", 7u32, None::<bool>).into_key(), [KeyPart::Str("a".into()), KeyPart::Int(7), KeyPart::Null]);
    }
}
