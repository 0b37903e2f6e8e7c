//! Templates that mean harm: each must end in an error, or in nothing, within seconds and without much memory.

#[path = "text/tiny.rs"]
mod tiny;

use std::time::{Duration, Instant, SystemTime};

use potluck_coordinator::text::{ChatTemplate, Message, RenderOptions, TemplateError};

/// Optimised, none takes a second; test machines are slow and shared, and unoptimised builds ten times slower.
const PATIENCE: Duration = Duration::from_secs(30);

fn render(source: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, &tiny::tokenizer())?;
    let options = RenderOptions::new(SystemTime::UNIX_EPOCH);
    let rendered = template.render(&[Message::new("user", "Hello")], &options);
    rendered.map(|rendered| rendered.text())
}

fn fails(name: &str, source: &str) {
    let started = Instant::now();
    let result = render(source);
    assert!(
        started.elapsed() < PATIENCE,
        "{name} took {:?}",
        started.elapsed()
    );
    let error = result.expect_err(name).to_string();
    assert!(
        !error.is_empty() && error.len() < 1000,
        "{name}: {error:.1000}"
    );
}

/// A template that changes `ns.l` and its twin `ns.m` again and again, and then uses them.
fn grown(start: &str, step: &str, rounds: usize, end: &str) -> String {
    let twin = step.replace("ns.l", "ns.m");
    format!(
        "{{% set ns = namespace(l={start}, m={start}) %}}{{% for i in range({rounds}) %}}{{% set ns.l = {step} %}}\
         {{% set ns.m = {twin} %}}{{% endfor %}}{end}"
    )
}

#[test]
fn endless_loops() {
    fails(
        "huge range",
        "{% for i in range(1000000000) %}x{% endfor %}",
    );
    fails(
        "many ranges",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    );
    fails(
        "nested loops",
        "{% for a in range(25000) %}{% for b in range(25000) %}{% endfor %}{% endfor %}",
    );
    fails(
        "recursive macro",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    );
    fails(
        "branching macro",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    );
    fails(
        "recursive loop",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    );
    let large = "{% set a = range(90000)|list %}{% set b = range(90000)|list %}";
    for work in [
        "{% if a == b %}{% endif %}",
        "{% if a is eq(b) %}{% endif %}",
        "{% if 'x' in a %}{% endif %}",
        "{% set c = a|sort %}",
    ] {
        fails(
            work,
            &format!("{large}{{% for i in range(90000) %}}{work}{{% endfor %}}"),
        );
    }
    fails(
        "scans",
        "{% set t = 'x' * 1000000 %}{% for i in range(90000) %}{% if 'y' in t %}{% endif %}{% endfor %}",
    );
}

#[test]
fn texts_that_grow() {
    for step in [
        "ns.l ~ ns.l",
        "ns.l + ns.l",
        "ns.l * 2",
        "ns.l|replace('x', 'xx')",
        "ns.l|tojson|tojson",
        "('\"'|safe + (ns.l + ns.l)) ~ ''",
        "[ns.l, ns.l]|join",
        "','.join([ns.l, ns.l])",
    ] {
        fails(step, &grown("'xx\"'", step, 60, "{{ ns.l }}"));
    }
    let capture = "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}";
    fails(
        "capture",
        &format!(
            "{{% set ns = namespace(s='x') %}}{{% for i in range(60) %}}{capture}{{% endfor %}}"
        ),
    );
    fails("repetition", "{{ 'x' * 2000000000 }}");
    fails("padding", "{{ '%2000000000d'|format(1) }}");
    fails("indent", "{{ messages|tojson(indent=100000000) }}");
    fails(
        "indented lines",
        "{{ ('x\n' * 1000000)|indent(64)|length }}",
    );
    fails("words", "{{ ('x ' * 10000000).split()|length }}");
    fails("replace", "{{ ('a' * 100000).replace('a', 'b' * 100000) }}");
    fails(
        "join",
        "{{ (range(99999)|list * 9999)|join('xxxxxxxxxxxxxxxxxxxxxxxx') }}",
    );
    fails(
        "shared text",
        "{% set t = 'x' * 100000 %}{{ ([t] * 100000)|string|length }}",
    );
}

/// Ways of working through a value: each is where a value that is larger than it looks would hurt.
const USES: &[&str] = &[
    "{{ ns.l }}",
    "{{ (ns.l ~ '')|length }}",
    "{{ ('' ~ ns.l)|length }}",
    "{{ ns.l|string|length }}",
    "{{ ns.l|upper|length }}",
    "{{ ns.l|tojson|length }}",
    "{{ ('%s'|format(ns.l))|length }}",
    "{{ ns.l|join(',')|length }}",
    "{{ ns.l == ns.m }}",
    "{{ ns.l < ns.m }}",
    "{{ ns.l is eq(ns.m) }}",
    "{{ ns.l in [ns.m] }}",
    "{{ [ns.l, ns.m]|sort|length }}",
    "{{ [ns.l, ns.m]|unique|length }}",
    "{{ {ns.l: 1, ns.m: 2}|length }}",
    "{{ raise_exception('') }}",
];

#[test]
fn lists_that_are_larger_than_they_look() {
    let steps = [
        "[ns.l, ns.l]",
        "ns.l + ns.l",
        "(ns.l, ns.l)",
        "{'a': ns.l, 'b': ns.l}",
        "[ns.l, ns.l]|sum(start=[])",
        "ns.l * 2",
    ];
    for step in steps {
        for end in USES {
            fails(&format!("{step}, {end}"), &grown("[1]", step, 60, end));
        }
    }
    for source in [
        "{{ [1] * 100000000 }}",
        "{{ ([1] * 100000000)|string|length }}",
    ] {
        fails(source, source);
    }
    fails(
        "macro",
        "{% macro m(l) %}{{ l|string|length }}{% endmacro %}{{ m(l=[1] * 100000000) }}",
    );
    fails(
        "macros",
        "{% macro m(l, n) %}{% if n %}{{ m([l, l], n - 1) }}{% else %}{{ l }}{% endif %}{% endmacro %}{{ m([1], 40) }}",
    );
    let recursive = "{% for x in [[1]] recursive %}{% if loop.depth < 60 %}{{ loop([[x, x]]) }}{% else %}{{ x }}{% endif %}{% endfor %}";
    fails("recursive", recursive);
}

#[test]
fn values_that_are_nested_too_deep() {
    let steps = [
        "[ns.l]",
        "(ns.l,)",
        "{'a': ns.l}",
        "{ns.l: 1}",
        "dict(a=ns.l)",
        "namespace(a=ns.l)",
        "ns.l[0:]",
        "ns.l[::-1]",
        "ns.l * 1",
        "ns.l + []",
        "ns.l|reverse",
        "ns.l|select",
        "ns.l|map('string')",
        "ns.l|batch(1)",
        "ns.l|slice(1)",
        "ns.l|zip(ns.l)",
    ];
    for step in steps {
        for end in [
            "{{ ns.l }}{{ raise_exception('') }}",
            "{{ ns.l == ns.m }}{{ raise_exception('') }}",
        ] {
            fails(step, &grown("[1]", step, 60_000, end));
        }
    }
    for into in [
        "ns",
        "[ns]",
        "(ns,)",
        "{'a': ns}",
        "dict(a=ns)",
        "namespace(a=ns)",
    ] {
        fails(
            into,
            &format!("{{% set ns = namespace() %}}{{% set ns.a = {into} %}}{{{{ ns ~ '' }}}}"),
        );
    }
}

#[test]
fn sources_that_are_nested_too_deep() {
    let many = |part: &str| part.repeat(80_000);
    for tag in [
        "if true",
        "for a in b",
        "with a = 1",
        "macro m()",
        "call m()",
        "set a",
        "filter upper",
    ] {
        fails(tag, &many(&format!("{{% {tag} %}}")));
    }
    fails(
        "elif",
        &format!("{{% if false %}}{}{{% endif %}}", many("{% elif false %}")),
    );
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{1:", "}"),
        ("-", ""),
        ("not ", ""),
        ("a|f(", ")"),
        ("a is f ", ""),
    ] {
        fails(open, &format!("{{{{ {}1{} }}}}", many(open), many(close)));
    }
    let tails = [
        ".b",
        "[0]",
        "[0:1]",
        "()",
        "|string",
        " is string",
        " is not string",
        " + b",
        " * b",
        " ** b",
        " ~ b",
        " and b",
        " or b",
        " < b",
        " in b",
        " not in b",
        " if b else a",
        "|default(b)",
    ];
    for tail in tails {
        fails(tail, &format!("{{{{ a{} }}}}", many(tail)));
    }
    fails(
        "target",
        &format!("{{% set {}b{} = 1 %}}", many("(a, "), many(")")),
    );
    let long_list = format!("{{{{ [{}]|length }}}}", "'word', ".repeat(3000));
    assert_eq!(
        render(&long_list).unwrap(),
        "3000",
        "a long list is not deep"
    );
}

#[test]
fn reaching_out() {
    fails("include", "{% include 'chat' %}");
    fails("import", "{% import 'chat' as c %}");
    fails("extends", "{% extends 'chat' %}");
    fails("file", "{% include '/etc/passwd' %}");
    let harmless = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (''|attr('__class__')|attr('__base__'))() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ request.application.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ debug() }}",
    ];
    for source in harmless {
        let shown = render(source).unwrap_or_default();
        assert!(shown.trim().is_empty(), "{source} shows {shown}");
    }
}

#[test]
fn nonsense() {
    for source in [
        "{% if %}",
        "{{ messages|nope }}",
        "{{ strftime_now('%Q%!') }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
    ] {
        fails(source, source);
    }
}
