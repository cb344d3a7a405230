//! Tokens to declarations.

use std::{iter::Peekable, vec::IntoIter};

use super::{
    Constants, Declarations, Function, Section, SourceError, Variable,
    lexer::{Lexeme, Token},
    table::{Draft, Shape},
};
use crate::types::{Encoding, Tag, Type, TypeError, TypeId};

type Parsed<T> = Result<T, SourceError>;

pub(super) fn read_file(
    declarations: &mut Declarations,
    constants: &Constants,
    name: &str,
    file: usize,
    tokens: Vec<Lexeme>,
) -> Parsed<()> {
    let mut parser =
        Parser { declarations, constants, name, file, tokens: tokens.into_iter().peekable(), line: 0 };
    while parser.tokens.peek().is_some() {
        parser.declaration()?;
    }
    Ok(())
}

struct Parser<'p> {
    declarations: &'p mut Declarations,
    constants: &'p Constants,
    name: &'p str,
    file: usize,
    tokens: Peekable<IntoIter<Lexeme>>,
    line: u32,
}

/// A declared name with its type, and what stood behind it.
struct Declarator {
    name: Option<String>,
    ty: TypeId,
    attributes: Attributes,
}

#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    section: Option<Section>,
    at: Option<u64>,
    shape: Shape,
}

impl Parser<'_> {
    fn error<T>(&self, reason: impl Into<String>) -> Parsed<T> {
        Err(SourceError { file: self.name.to_owned(), line: self.line, reason: reason.into() })
    }

    fn typed<T>(&self, result: Result<T, TypeError>) -> Parsed<T> {
        result.or_else(|error| self.error(error.to_string()))
    }

    fn next(&mut self) -> Parsed<Token> {
        match self.tokens.next() {
            Some(lexeme) => {
                self.line = lexeme.line;
                Ok(lexeme.token)
            }
            None => self.error("the file ends inside a declaration"),
        }
    }

    fn at_punct(&mut self, punct: char) -> bool {
        self.tokens.peek().is_some_and(|lexeme| lexeme.token == Token::Punct(punct))
    }

    fn at_word(&mut self) -> Option<&str> {
        match self.tokens.peek() {
            Some(Lexeme { token: Token::Word(word), .. }) => Some(word),
            _ => None,
        }
    }

    fn take(&mut self, punct: char) -> Parsed<bool> {
        let here = self.at_punct(punct);
        if here {
            self.next()?;
        }
        Ok(here)
    }

    fn take_word(&mut self, word: &str) -> Parsed<bool> {
        let here = self.at_word() == Some(word);
        if here {
            self.next()?;
        }
        Ok(here)
    }

    fn expect(&mut self, punct: char) -> Parsed<()> {
        match self.next()? {
            Token::Punct(found) if found == punct => Ok(()),
            other => self.error(format!("`{punct}` expected, not {other:?}")),
        }
    }

    fn word(&mut self) -> Parsed<String> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => self.error(format!("a name expected, not {other:?}")),
        }
    }

    fn declaration(&mut self) -> Parsed<()> {
        let typedef = self.take_word("typedef")?;
        let is_static = self.take_word("static")?;
        let is_variable = self.take_word("extern")? || is_static;
        let base = self.type_specifier()?;
        if self.take(';')? {
            return Ok(());
        }
        let Declarator { name, ty, attributes } = self.declarator(base)?;
        let Some(name) = name else { return self.error("a declaration without a name") };
        if typedef {
            let typedef = Type::Typedef { name: name.clone(), target: ty };
            self.declarations.types.define(Tag::Typedef, Some(&name), typedef);
        } else if is_variable {
            self.declarations.variables.push(Variable {
                name,
                ty,
                section: attributes.section.unwrap_or(Section::Data),
                align: attributes.shape.align,
                at: attributes.at,
                external: !is_static,
                file: self.file,
            });
        } else {
            return self.function(name);
        }
        self.expect(';')
    }

    fn function(&mut self, name: String) -> Parsed<()> {
        self.expect('(')?;
        self.take_word("void")?;
        self.expect(')')?;
        self.expect('{')?;
        let mut calls = Vec::new();
        while !self.take('}')? {
            calls.push(self.word()?);
            self.expect('(')?;
            self.expect(')')?;
            self.expect(';')?;
        }
        self.declarations.functions.push(Function { name, calls, file: self.file });
        Ok(())
    }

    fn type_specifier(&mut self) -> Parsed<TypeId> {
        let mut qualified = false;
        while self.take_word("const")? || self.take_word("volatile")? {
            qualified = true;
        }
        let ty = match self.word()?.as_str() {
            "struct" => self.aggregate(Tag::Struct)?,
            "union" => self.aggregate(Tag::Union)?,
            "enum" => self.enumeration()?,
            "void" => self.declarations.types.void(),
            word => match self.declarations.types.named(Tag::Typedef, word) {
                Some(id) => id,
                None => self.base_type(word)?,
            },
        };
        Ok(if qualified { self.declarations.types.push(Type::Qualified(ty)) } else { ty })
    }

    /// A base type under the name that compilers give it in debug information.
    fn base_type(&mut self, first: &str) -> Parsed<TypeId> {
        let mut words = vec![first.to_owned()];
        while let Some(word @ ("char" | "short" | "int" | "long")) = self.at_word() {
            words.push(word.to_owned());
            self.next()?;
        }
        let unsigned = first == "unsigned";
        let longs = words.iter().filter(|word| *word == "long").count();
        let has = |name: &str| words.iter().any(|word| word == name);
        let (name, size) = match () {
            () if has("_Bool") => ("_Bool", 1),
            () if has("char") => (if unsigned { "unsigned char" } else { "char" }, 1),
            () if has("short") => (if unsigned { "short unsigned int" } else { "short int" }, 2),
            () if longs == 1 => (if unsigned { "long unsigned int" } else { "long int" }, 8),
            () if longs == 2 => (if unsigned { "long long unsigned int" } else { "long long int" }, 8),
            () if unsigned => ("unsigned int", 4),
            () if has("int") => ("int", 4),
            () => return self.error(format!("unknown type `{first}`")),
        };
        let encoding = match name {
            "_Bool" => Encoding::Bool,
            "char" => Encoding::Char,
            _ if unsigned => Encoding::Unsigned,
            _ => Encoding::Signed,
        };
        Ok(self.declarations.types.base(name, size, encoding))
    }

    fn tag_name(&mut self) -> Parsed<Option<String>> {
        if self.at_word().is_some() { self.word().map(Some) } else { Ok(None) }
    }

    fn aggregate(&mut self, tag: Tag) -> Parsed<TypeId> {
        let name = self.tag_name()?;
        if !self.take('{')? {
            let Some(name) = name else { return self.error("neither a tag nor members") };
            return Ok(self.declarations.types.tagged(tag, &name));
        }
        let mut drafts = Vec::new();
        while !self.take('}')? {
            self.members(&mut drafts)?;
        }
        let shape = self.attributes()?.shape;
        let laid_out = self.declarations.types.aggregate(tag, name.as_deref(), drafts, shape);
        self.typed(laid_out)
    }

    fn members(&mut self, drafts: &mut Vec<Draft>) -> Parsed<()> {
        let base = self.type_specifier()?;
        loop {
            let declarator = self.declarator(base)?;
            let bits = if self.take(':')? { Some(self.expression()?) } else { None };
            drafts.push(Draft {
                name: declarator.name,
                ty: declarator.ty,
                bits,
                align: declarator.attributes.shape.align,
                at: declarator.attributes.at,
            });
            if !self.take(',')? {
                return self.expect(';');
            }
        }
    }

    fn enumeration(&mut self) -> Parsed<TypeId> {
        let name = self.tag_name()?;
        if !self.take('{')? {
            let Some(name) = name else { return self.error("neither a tag nor enumerators") };
            return Ok(self.declarations.types.tagged(Tag::Enum, &name));
        }
        let (mut values, mut next) = (Vec::new(), 0_i128);
        while !self.take('}')? {
            let enumerator = self.word()?;
            if self.take('=')? {
                let negative = self.take('-')?;
                next = i128::from(self.expression()?) * if negative { -1 } else { 1 };
            }
            values.push((enumerator, next));
            next += 1;
            self.take(',')?;
        }
        let ty = Type::Enum { name: name.clone(), size: 4, values };
        Ok(self.declarations.types.define(Tag::Enum, name.as_deref(), ty))
    }

    fn declarator(&mut self, base: TypeId) -> Parsed<Declarator> {
        let mut ty = base;
        while self.take('*')? {
            ty = self.declarations.types.push(Type::Pointer(ty));
        }
        let mut name = None;
        if self.at_word().is_some_and(|word| !word.starts_with("__") || !is_attribute(word)) {
            name = Some(self.word()?);
        } else if self.take('(')? {
            self.expect('*')?;
            name = Some(self.word()?);
            self.expect(')')?;
            self.expect('(')?;
            self.take_word("void")?;
            self.expect(')')?;
            let function = self.declarations.types.push(Type::Function { result: ty, params: Vec::new() });
            ty = self.declarations.types.push(Type::Pointer(function));
        }
        let mut counts = Vec::new();
        while self.take('[')? {
            counts.push(self.expression()?);
            self.expect(']')?;
        }
        for count in counts.into_iter().rev() {
            ty = self.declarations.types.push(Type::Array { element: ty, count: Some(count) });
        }
        Ok(Declarator { name, ty, attributes: self.attributes()? })
    }

    fn attributes(&mut self) -> Parsed<Attributes> {
        let mut attributes = Attributes::default();
        while self.at_word().is_some_and(is_attribute) {
            match self.word()?.as_str() {
                "__packed" => attributes.shape.packed = true,
                "__aligned" => attributes.shape.align = self.argument()?,
                "__size" => attributes.shape.size = Some(self.argument()?),
                "__at" => attributes.at = Some(self.argument()?),
                section => attributes.section = section_named(section),
            }
        }
        Ok(attributes)
    }

    fn argument(&mut self) -> Parsed<u64> {
        self.expect('(')?;
        let value = self.expression()?;
        self.expect(')')?;
        Ok(value)
    }

    fn expression(&mut self) -> Parsed<u64> {
        let mut value = self.value()?;
        loop {
            let result = if self.take('*')? {
                let factor = self.value()?;
                value.checked_mul(factor)
            } else if self.take('/')? {
                let divisor = self.value()?;
                value.checked_div(divisor)
            } else {
                return Ok(value);
            };
            let Some(result) = result else { return self.error("arithmetic overflow") };
            value = result;
        }
    }

    fn value(&mut self) -> Parsed<u64> {
        match self.next()? {
            Token::Number(number) => Ok(number),
            Token::Word(word) => match self.constants.get(word.as_str()) {
                Some(value) => Ok(*value),
                None => self.error(format!("no constant `{word}`")),
            },
            Token::Punct(other) => self.error(format!("a number expected, not `{other}`")),
        }
    }
}

fn is_attribute(word: &str) -> bool {
    matches!(word, "__packed" | "__aligned" | "__size" | "__at") || section_named(word).is_some()
}

fn section_named(word: &str) -> Option<Section> {
    Some(match word {
        "__rodata" => Section::RoData,
        "__data" => Section::Data,
        "__percpu" => Section::PerCpu,
        "__init" => Section::Init,
        "__bss" => Section::Bss,
        _ => return None,
    })
}
