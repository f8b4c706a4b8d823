//! Where in an expression something is, and what is wrong there.

use std::fmt;

/// A place in the source of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Bytes before it.
    pub byte: usize,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
}

/// What is wrong with an expression, where, and the fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub position: Position,
    /// What, and the fix.
    pub message: String,
}

impl Position {
    /// The place so many bytes into `source`; its end, if there are not so many.
    #[must_use]
    pub fn of(source: &str, byte: usize) -> Self {
        let mut byte = byte.min(source.len());
        while !source.is_char_boundary(byte) {
            byte -= 1;
        }
        let before = &source[..byte];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            byte,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The place in this line (from 1) after so many characters (from 0).
    pub(crate) fn in_line(source: &str, line: usize, characters: usize) -> Self {
        let start: usize = source
            .split_inclusive('\n')
            .take(line.saturating_sub(1))
            .map(str::len)
            .sum();
        let rest = &source[start..];
        let length: usize = rest.chars().take(characters).map(char::len_utf8).sum();
        Self::of(source, start + length)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column, .. } = self.position;
        write!(f, "line {line}, column {column}: {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters_and_bytes_are_bytes() {
        let source = "'é' ==\n  x";
        let position = Position::of(source, 5);
        assert_eq!((position.line, position.column), (1, 5));
        let position = Position::of(source, 10);
        assert_eq!((position.line, position.column), (2, 3));
        assert_eq!(Position::in_line(source, 2, 2), position);
        assert_eq!(Position::of(source, 2).byte, 1, "never inside a character");
        assert_eq!(Position::of(source, 99).byte, source.len());
    }
}
