//! Text to tokens; comments and the branches of `#ifdef` not taken are gone.

use super::{Constants, SourceError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Number(u64),
    Punct(char),
}

#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) line: u32,
}

pub(super) fn tokens(file: &str, text: &str, constants: &Constants) -> Result<Vec<Lexeme>, SourceError> {
    let mut lexemes = Vec::new();
    let mut taken = Vec::new();
    let mut in_comment = false;
    for (text, line) in text.lines().zip(1_u32..) {
        let error = |reason: &str| SourceError { file: file.to_owned(), line, reason: reason.to_owned() };
        let code = without_comments(text, &mut in_comment);
        if let Some(directive) = code.trim_start().strip_prefix('#') {
            branch(directive, constants, &mut taken).ok_or_else(|| error("unknown or unpaired directive"))?;
        } else if taken.iter().all(|taken| *taken) {
            line_tokens(&code, line, &mut lexemes).map_err(|reason| error(&reason))?;
        }
    }
    if taken.is_empty() && !in_comment {
        return Ok(lexemes);
    }
    let reason = "the file ends inside #ifdef or a comment".to_owned();
    Err(SourceError { file: file.to_owned(), line: 0, reason })
}

fn branch(directive: &str, constants: &Constants, taken: &mut Vec<bool>) -> Option<()> {
    let mut words = directive.split_whitespace();
    match (words.next()?, words.next()) {
        ("ifdef", Some(name)) => taken.push(constants.contains_key(name)),
        ("ifndef", Some(name)) => taken.push(!constants.contains_key(name)),
        ("else", None) => {
            let top = taken.last_mut()?;
            *top = !*top;
        }
        ("endif", None) => {
            taken.pop()?;
        }
        _ => return None,
    }
    Some(())
}

fn without_comments(line: &str, in_comment: &mut bool) -> String {
    let mut code = String::new();
    let mut rest = line;
    loop {
        let mark = if *in_comment { "*/" } else { "/*" };
        let Some((before, after)) = rest.split_once(mark) else { break };
        if !*in_comment {
            code.push_str(before);
            code.push(' ');
        }
        *in_comment = !*in_comment;
        rest = after;
    }
    if !*in_comment {
        code.push_str(rest);
    }
    code
}

fn line_tokens(code: &str, line: u32, lexemes: &mut Vec<Lexeme>) -> Result<(), String> {
    let mut chars = code.chars().peekable();
    while let Some(first) = chars.next() {
        let token = if first.is_whitespace() {
            continue;
        } else if first.is_alphanumeric() || first == '_' {
            let mut word = String::from(first);
            while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || *next == '_') {
                word.push(next);
            }
            if first.is_ascii_digit() {
                Token::Number(crate::addr::parse_number(&word).map_err(|error| error.to_string())?)
            } else {
                Token::Word(word)
            }
        } else {
            Token::Punct(first)
        };
        lexemes.push(Lexeme { token, line });
    }
    Ok(())
}
