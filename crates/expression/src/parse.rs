//! From text to the tree of the `cel` crate, and its messages into ours.
//!
//! Macros are not expanded: `exists` and `has` reach the checker as they were written, so that what it says is about what
//! the user wrote.
//!
//! The parser recurses through a dozen rules for each bracket; a build without optimisation spends up to 200 KiB of stack
//! on one. So length and nesting are bounded before it sees the text, and it runs on a thread whose stack is large enough
//! for what the bounds let through: an expression cannot end the process.

use std::{cell::Cell, thread};

use cel::{
    Env, IdedExpr, ParseError,
    common::ast::{Expr, SelectExpr, SourceInfo},
};

use crate::position::{Fault, Position};

/// Longest expression, in bytes.
pub const MAX_BYTES: usize = 1024;
/// Deepest nesting of brackets.
pub const MAX_NESTING: usize = 16;
/// Four times what the worst expression within these bounds was seen to need without optimisation.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// A parsed expression and where its nodes are.
pub(crate) struct Parsed {
    pub(crate) tree: IdedExpr,
    pub(crate) offsets: SourceInfo,
}

/// Parses an expression.
///
/// # Errors
/// The first thing that cannot be read; what follows it is mostly a consequence.
pub(crate) fn parse(source: &str) -> Result<Parsed, Fault> {
    let fault = |byte, message| Fault {
        position: Position::of(source, byte),
        message,
    };
    if source.len() > MAX_BYTES {
        let message = format!(
            "the expression has {} bytes; write at most {MAX_BYTES}",
            source.len()
        );
        return Err(fault(MAX_BYTES, message));
    }
    if source.trim().is_empty() {
        return Err(fault(
            0,
            "the expression is empty; write a condition or a value".to_owned(),
        ));
    }
    if let Some(byte) = too_deep(source) {
        let message = format!("brackets are nested more than {MAX_NESTING} deep; split the expression");
        return Err(fault(byte, message));
    }
    if let Some(parsed) = dotted(source) {
        return Ok(parsed);
    }
    let unread = || {
        fault(
            0,
            "the parser gave no answer; write the expression in another way".to_owned(),
        )
    };
    let parsed = on_a_deep_stack(|| {
        Env::default()
            .parser()
            .enable_optional_syntax(true)
            .parse_with_source_info(source)
            .map_err(|errors| translate_first(source, &errors.errors))
    });
    let (tree, offsets) = parsed.ok_or_else(unread)??;
    Ok(Parsed { tree, offsets })
}

/// Words that are no names.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// The tree of a name with fields and nothing else, `input.order_id`: most expressions are no more than that, and need no parser.
fn dotted(source: &str) -> Option<Parsed> {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !RESERVED.contains(&name)
    };
    let mut names = source.split('.');
    let first = names.next().filter(|name| is_name(name))?;
    let mut offsets = SourceInfo::default();
    let mut add = |id: u64, start: usize, stop: usize| {
        // An expression is shorter than that.
        let place = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
        offsets.add_offset(id, place(start), place(stop));
    };
    let mut id = 1;
    let mut end = first.len();
    add(id, 0, end);
    let mut tree = IdedExpr {
        id,
        expr: Expr::Ident(first.to_owned()),
    };
    for field in names {
        if !is_name(field) {
            return None;
        }
        id += 1;
        // The parser puts a field where its dot is.
        add(id, end, end + 1);
        end += 1 + field.len();
        tree = IdedExpr {
            id,
            expr: Expr::Select(SelectExpr {
                operand: Box::new(tree),
                field: field.to_owned(),
                test: false,
            }),
        };
    }
    Some(Parsed { tree, offsets })
}

thread_local! {
    /// Whether this thread's stack is large enough for the parser.
    static IS_DEEP: Cell<bool> = const { Cell::new(false) };
}

/// Runs something on a stack that is large enough for the parser: on a thread of its own, unless this is one already. Whoever reads
/// many expressions saves a thread for each. None: there was no thread to be had, or it panicked.
pub fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if IS_DEEP.get() {
        return Some(work());
    }
    thread::scope(|scope| {
        let deep = thread::Builder::new().stack_size(STACK_BYTES);
        let running = deep.spawn_scoped(scope, || {
            IS_DEEP.set(true);
            work()
        });
        running.ok()?.join().ok()
    })
}

fn translate_first(source: &str, errors: &[ParseError]) -> Fault {
    // What is incomplete is so because of another error, which says more.
    let telling = errors.iter().find(|error| !error.msg.starts_with("Incomplete"));
    match telling.or(errors.first()) {
        Some(error) => translate(source, error),
        None => Fault {
            position: Position::of(source, 0),
            message: "the expression cannot be read".to_owned(),
        },
    }
}

/// Where the brackets are too deep. Those in texts count as well: a bound need not be exact.
fn too_deep(source: &str) -> Option<usize> {
    let mut depth = 0_usize;
    source.bytes().position(|byte| {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_NESTING
    })
}

fn translate(source: &str, error: &ParseError) -> Fault {
    let line = usize::try_from(error.pos.0).unwrap_or_default();
    let column = usize::try_from(error.pos.1 - 1).unwrap_or_default();
    // The grammar counts characters; the tree, whose nodes have an id, counts bytes.
    let position = if error.expr_id == 0 {
        Position::in_line(source, line, column)
    } else {
        let start = Position::in_line(source, line, 0).byte;
        Position::of(source, start + column)
    };
    Fault {
        position,
        message: message(&error.msg),
    }
}

fn message(text: &str) -> String {
    let Some(syntax) = text.strip_prefix("Syntax error: ") else {
        if let Some(word) = text.strip_prefix("reserved identifier: ") {
            return format!("{word} is a reserved word of the language; a name is needed here");
        }
        return match text {
            "invalid int literal" => "the number does not fit into 64 bits; write a smaller one".to_owned(),
            "unsupported syntax: '`'" => "names in backticks are not supported; write m[\"name\"]".to_owned(),
            _ => format!("this cannot be read: {text}"),
        };
    };
    if let Some(token) = quoted(syntax, "token recognition error at: ") {
        return match token.chars().next() {
            Some('"' | '\'') => {
                "the text is not closed or has a bad escape; end it with the quote that began it".to_owned()
            }
            Some('=') => "= is no operator; compare with ==".to_owned(),
            Some('&') => "& is no operator; write && for \"and\"".to_owned(),
            Some('|') => "| is no operator; write || for \"or\"".to_owned(),
            _ => format!(
                "{} is not part of the language; put text into quotes",
                token.trim()
            ),
        };
    }
    if syntax.contains("Recursion limit") {
        return "the expression is nested too deep; split it".to_owned();
    }
    if let Some(missing) = syntax.strip_prefix("mismatched input '<EOF>' expecting '") {
        return format!(
            "the expression ends where {} is expected",
            missing.trim_end_matches('\'')
        );
    }
    if let Some(missing) = quoted(syntax, "missing ") {
        let missing = missing.split('\'').next().unwrap_or_default();
        return format!("{missing} is missing here");
    }
    if syntax.starts_with("mismatched input '<EOF>'")
        || syntax.starts_with("no viable alternative at input '<EOF>'")
    {
        return "the expression ends where a value, a name or a bracket is expected".to_owned();
    }
    for beginning in [
        "extraneous input ",
        "mismatched input ",
        "no viable alternative at input ",
    ] {
        if let Some(token) = quoted(syntax, beginning) {
            let symbol = match token {
                "and" => Some("&&"),
                "or" => Some("||"),
                "not" => Some("!"),
                _ => None,
            };
            if let Some(symbol) = symbol {
                return format!("{token} is no operator; write {symbol}");
            }
            return format!("{token} cannot stand here; is an operator missing before it?");
        }
    }
    format!("this cannot be read: {syntax}")
}

/// The text in quotes after `beginning`.
fn quoted<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(beginning)?.strip_prefix('\'')?;
    let end = rest
        .find("' expecting")
        .unwrap_or_else(|| rest.len().saturating_sub(1));
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, fields and where each is.
    fn places(parsed: &Parsed) -> Vec<(String, Option<u32>)> {
        let mut places = Vec::new();
        let mut expression = &parsed.tree;
        loop {
            let at = parsed.offsets.offset_for(expression.id).map(|(start, _)| start);
            match &expression.expr {
                Expr::Ident(name) => {
                    places.push((name.clone(), at));
                    return places;
                }
                Expr::Select(select) => {
                    assert!(!select.test);
                    places.push((select.field.clone(), at));
                    expression = &select.operand;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_name_with_fields_is_what_the_parser_makes_of_it() {
        for source in [
            "a",
            "input.order_id",
            "steps.reserve.output.warehouse",
            "_x1.__y.z_",
        ] {
            let (tree, offsets) = Env::default()
                .parser()
                .enable_optional_syntax(true)
                .parse_with_source_info(source)
                .unwrap_or_else(|_| panic!("{source}"));
            let own = dotted(source).unwrap_or_else(|| panic!("{source}"));
            assert_eq!(places(&own), places(&Parsed { tree, offsets }), "{source}");
        }
        for source in [
            "", ".", "a.", ".a", "a..b", "1.5", "a.1", "true", "a.in", "null", "a b", "é", "a[0]", "while",
        ] {
            assert!(dotted(source).is_none(), "{source}");
        }
    }
}
