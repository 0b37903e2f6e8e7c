//! Compiles a template and adds the checks that the engine's own fuel leaves out.
//!
//! The engine charges for instructions and strings, but lists and maps are shared and lazy: in sixty steps a template can
//! build a list that prints as 2^60 numbers, or one that is nested so deep that dropping it overflows the stack. So the
//! compiled instructions get company: whatever makes a container is followed by a check of what it made, whatever works
//! through one is preceded by its price (`weigh`), and operators that are not Python's are replaced (`python_ops`). This uses
//! the engine's unstable interface; its version is pinned.

use std::collections::BTreeMap;

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use super::{python_ops, weigh};

/// No slot in the engine's table of filters: the name is looked up at every use.
const UNCACHED: u8 = u8::MAX;

/// What one tag may hold beside commas and literals. Operators and filters in a row nest in the parser, which does not
/// count them; 1 000 of them overflow a thread's stack in an unoptimised build. The longest tag of 71 real templates has 57.
const MAX_TAG_TOKENS: usize = 400;

/// `elif` tags in a template: each nests in the one before it. Real templates have up to 20.
const MAX_ELIFS: usize = 200;

/// A template ready to run: its main part and its blocks.
pub(super) struct Armoured<'s> {
    pub main: Instructions<'s>,
    pub blocks: BTreeMap<&'s str, Instructions<'s>>,
}

/// Refuses a source that would overflow the parser's stack. To be called once, before the first `compile`.
pub(super) fn check_source(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let (mut in_tag, mut elifs, mut opened) = (0, 0, false);
    for token in tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        match token {
            Token::VariableStart | Token::BlockStart => in_tag = 0,
            Token::Str(_)
            | Token::String(_)
            | Token::Int(_)
            | Token::Float(_)
            | Token::Comma
            | Token::Colon => {}
            Token::Ident("elif") if opened => elifs += 1,
            _ => in_tag += 1,
        }
        opened = matches!(token, Token::BlockStart);
        if in_tag > MAX_TAG_TOKENS || elifs > MAX_ELIFS {
            let message = format!("the tag at line {} is too long", span.start_line);
            return Err(Error::new(ErrorKind::SyntaxError, message));
        }
    }
    Ok(())
}

/// Compiles a template. The result borrows the source, so it lives for one rendering; compiling takes less than a millisecond.
pub(super) fn compile<'s>(
    name: &'s str,
    source: &'s str,
    syntax: &SyntaxConfig,
) -> Result<Armoured<'s>, Error> {
    let tree = parse(source, name, syntax.clone())?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&tree);
    let (main, blocks) = generator.finish();
    std::iter::once(&main)
        .chain(blocks.values())
        .try_for_each(check_constants)?;
    let blocks = blocks
        .into_iter()
        .map(|(name, block)| (name, armoured(&block)))
        .collect();
    Ok(Armoured {
        main: armoured(&main),
        blocks,
    })
}

/// The compiler works out constants by itself, and some of them lazily: `[0] * 100000000` costs nothing until it is used.
fn check_constants(instructions: &Instructions<'_>) -> Result<(), Error> {
    (0..)
        .map_while(|at| instructions.get(at))
        .try_for_each(|instruction| match instruction {
            Instruction::LoadConst(value) => weigh::check_constant(value),
            _ => Ok(()),
        })
}

/// The same instructions with the checks between them, and every jump led to its new target.
fn armoured<'s>(plain: &Instructions<'s>) -> Instructions<'s> {
    let instructions = || (0..).map_while(|at| Some((at, plain.get(at)?)));
    let mut moved = Vec::new();
    let mut length = 0;
    for (_, instruction) in instructions() {
        moved.push(length);
        length += (before(instruction).len() + 1 + after(instruction).len()) as u32;
    }
    moved.push(length);
    let target = |old: u32| moved.get(old as usize).copied().unwrap_or(length);

    let mut out = Instructions::new(plain.name(), plain.source());
    for (at, instruction) in instructions() {
        let group = before(instruction).iter().map(|check| check.instruction());
        let group = group.chain([retargeted(instruction, target)]);
        for instruction in group.chain(after(instruction).iter().map(|check| check.instruction())) {
            match plain.get_span(at) {
                Some(span) => out.add_with_span(instruction, span),
                None => out.add_with_line(instruction, plain.get_line(at).unwrap_or(0) as u16),
            };
        }
    }
    out
}

#[derive(Clone, Copy)]
enum Check {
    Swap,
    Filter(&'static str),
}

impl Check {
    fn instruction<'s>(self) -> Instruction<'s> {
        match self {
            Check::Swap => Instruction::Swap,
            Check::Filter(name) => Instruction::ApplyFilter(name, Some(1), UNCACHED),
        }
    }
}

const PAY: Check = Check::Filter(weigh::PAY);
const SOLID: Check = Check::Filter(weigh::SOLID);
const STORABLE: Check = Check::Filter(weigh::STORABLE);
const TEXT: Check = Check::Filter(python_ops::TEXT);
const ITERABLE: Check = Check::Filter(python_ops::ITERABLE);

/// What an instruction's operands need. The last operand is on top; the one below is reached by swapping.
fn before(instruction: &Instruction<'_>) -> &'static [Check] {
    match instruction {
        Instruction::Eq | Instruction::Ne | Instruction::CompareAndPreserve(_) => &[PAY],
        Instruction::StringConcat => &[TEXT, Check::Swap, TEXT, Check::Swap],
        Instruction::PushLoop(_) => &[ITERABLE],
        Instruction::SetAttr(_) => &[Check::Swap, STORABLE, Check::Swap],
        _ => &[],
    }
}

/// What an instruction's result needs.
fn after(instruction: &Instruction<'_>) -> &'static [Check] {
    match instruction {
        Instruction::BuildList(_) | Instruction::BuildTuple(_) | Instruction::BuildMap(_) => &[PAY],
        Instruction::Slice => &[SOLID],
        Instruction::ApplyFilter(name, ..) if weigh::FLAT_FILTERS.contains(name) => &[SOLID],
        Instruction::Mul
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => &[SOLID, PAY],
        _ => &[],
    }
}

/// The instruction in its new place, or what stands for it.
fn retargeted<'s>(instruction: &Instruction<'s>, target: impl Fn(u32) -> u32) -> Instruction<'s> {
    let operator = |name| Instruction::ApplyFilter(name, Some(2), UNCACHED);
    match *instruction {
        Instruction::Iterate(to) => Instruction::Iterate(target(to)),
        Instruction::Jump(to) => Instruction::Jump(target(to)),
        Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(target(to)),
        Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(target(to)),
        Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(target(to)),
        Instruction::BuildMacro(name, to, flags) => {
            Instruction::BuildMacro(name, target(to), flags)
        }
        Instruction::Add => operator(python_ops::SUM),
        Instruction::In => operator(python_ops::IN),
        Instruction::Lt => operator(python_ops::LESS),
        Instruction::Lte => operator(python_ops::LESS_OR_EQUAL),
        Instruction::Gt => operator(python_ops::GREATER),
        Instruction::Gte => operator(python_ops::GREATER_OR_EQUAL),
        Instruction::GetAttr(name) => match python_ops::method_lookup(name) {
            Some(filter) => Instruction::ApplyFilter(filter, Some(1), UNCACHED),
            None => Instruction::GetAttr(name),
        },
        ref other => other.clone(),
    }
}
