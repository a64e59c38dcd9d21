//! Exact sums (`i128`) as Postgres's `numeric`, in its binary format: no text is formatted or parsed on the way.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// `numeric` and its array in `pg_type`.
const NUMERIC: u32 = 1700;
const NUMERIC_ARRAY: u32 = 1231;
/// Digits are grouped by four, most significant group first.
const BASE: u128 = 10_000;
/// An `i128` has at most 39 decimal digits: ten groups.
const MAX_GROUPS: usize = 10;
const SIGN_NEGATIVE: u16 = 0x4000;

/// A whole number in a `numeric` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum(pub i128);

impl Type<Postgres> for Sum {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(NUMERIC))
    }
}

impl PgHasArrayType for Sum {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(NUMERIC_ARRAY))
    }
}

impl Encode<'_, Postgres> for Sum {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut groups = [0u16; MAX_GROUPS];
        let mut first = MAX_GROUPS;
        let mut rest = self.0.unsigned_abs();
        while rest > 0 {
            first -= 1;
            groups[first] = (rest % BASE) as u16;
            rest /= BASE;
        }
        let digits = &groups[first..];
        let sign = if self.0 < 0 { SIGN_NEGATIVE } else { 0 };
        let weight = (digits.len() as i16 - 1).max(0);
        for field in [digits.len() as u16, weight as u16, sign, 0] {
            buffer.extend(&field.to_be_bytes());
        }
        for digit in digits {
            buffer.extend(&digit.to_be_bytes());
        }
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Sum {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => from_binary(value.as_bytes()?).map(Self),
            PgValueFormat::Text => Ok(Self(value.as_str()?.parse()?)),
        }
    }
}

fn from_binary(bytes: &[u8]) -> Result<i128, BoxDynError> {
    let mut fields = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (Some(count), Some(weight), Some(sign), Some(_scale)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("a numeric is cut short".into());
    };
    if sign != 0 && sign != SIGN_NEGATIVE {
        return Err("a sum is not a finite number".into());
    }
    let weight = i32::from(weight as i16);
    if count > 0 && i32::from(count) > weight + 1 {
        return Err("a sum is not a whole number".into());
    }
    let mut value: i128 = 0;
    // Postgres leaves out trailing zero groups.
    for position in 0..=weight {
        let digit = if position < i32::from(count) { fields.next().unwrap_or_default() } else { 0 };
        let signed = if sign == 0 { i128::from(digit) } else { -i128::from(digit) };
        value = value.checked_mul(BASE as i128).and_then(|v| v.checked_add(signed)).ok_or("a sum exceeds 128 bits")?;
    }
    Ok(value)
}
