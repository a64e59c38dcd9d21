//! Reading packed bytes: what jobs, facts and markers are written in.

/// The bytes are cut short, or not UTF-8 where text must stand; at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedAt(pub usize);

/// Reads from the front; never panics, whatever the bytes.
#[derive(Debug, Clone)]
pub struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    /// Reads `bytes` from `at` on.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Where it is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], DamagedAt> {
        let end = self.at.checked_add(len).ok_or(DamagedAt(self.at))?;
        let slice = self.bytes.get(self.at..end).ok_or(DamagedAt(self.at))?;
        self.at = end;
        Ok(slice)
    }

    /// The next `N` bytes, for `from_le_bytes`.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], DamagedAt> {
        let at = self.at;
        self.slice(N)?.try_into().map_err(|_| DamagedAt(at))
    }

    /// A little-endian `i64`.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn i64(&mut self) -> Result<i64, DamagedAt> {
        self.take().map(i64::from_le_bytes)
    }

    /// A little-endian `u16`.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn u16(&mut self) -> Result<u16, DamagedAt> {
        self.take().map(u16::from_le_bytes)
    }

    /// A little-endian `i32`.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn i32(&mut self) -> Result<i32, DamagedAt> {
        self.take().map(i32::from_le_bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn u8(&mut self) -> Result<u8, DamagedAt> {
        self.take().map(|[byte]| byte)
    }

    /// Text of `len` bytes.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn text(&mut self, len: usize) -> Result<&'a str, DamagedAt> {
        let at = self.at;
        std::str::from_utf8(self.slice(len)?).map_err(|_| DamagedAt(at))
    }

    /// Text after its length in one byte.
    ///
    /// # Errors
    /// [`DamagedAt`].
    pub fn short_text(&mut self) -> Result<&'a str, DamagedAt> {
        let len = usize::from(self.u8()?);
        self.text(len)
    }
}
