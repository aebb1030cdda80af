"""The template language of --format."""

import pytest

from scow.cli.gotemplate import Template
from scow.cli.template_functions import TemplateError

DATA = {
    "Id": "sha256:abc",
    "Size": 1982256,
    "Names": ["/one", "/two"],
    "Config": {"Env": None, "Labels": {"b": "2", "a.b": "1"}, "Cmd": ["sh", "-c", "true"]},
    "State": {"Running": True, "ExitCode": 0},
    "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2"}, "other": {"IPAddress": "10.1.0.2"}}},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Id}} {{.Size}} {{.State.Running}}", "sha256:abc 1982256 true"),
        ("{{.Names}} {{.Config.Labels}}", "[/one /two] map[a.b:1 b:2]"),
        ("{{json .Config.Cmd}} {{json .Id}}", '["sh","-c","true"] "sha256:abc"'),
        ("{{.Config.Env}} {{json .Config.Env}} {{len .Config.Env}}", "[] null 0"),
        ('{{index .Config.Labels "a.b"}}{{index .Names 1}}{{index .Config.Labels "none"}}', "1/two"),
        ("{{range .Names}}<{{.}}>{{end}}", "</one></two>"),
        ("{{range $i, $e := .Names}}{{$i}}={{$e}};{{end}}", "0=/one;1=/two;"),
        (
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}} {{end}}",
            "bridge 10.0.0.2 other 10.1.0.2 ",
        ),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .State.ExitCode 1}}a{{else if eq .State.ExitCode 0}}b{{else}}c{{end}}", "b"),
        ('{{with .Config}}{{join .Cmd " "}}{{end}}', "sh -c true"),
        ('{{.Id | upper | printf "%s!"}}', "SHA256:ABC!"),
        ('{{printf "%-5s|%5d|%q" "ab" 42 "x"}}', 'ab   |   42|"x"'),
        ("{{println .Id}}", "sha256:abc\n"),
        ("{{ (index .Names 0) }}{{len .Id}}", "/one10"),
        ('{{(index .NetworkSettings.Networks "bridge").IPAddress}}', "10.0.0.2"),
        ('{{and true .Id}} {{or "" "x"}} {{not .State.Running}}', "sha256:abc x false"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{range .Names -}}\n {{.}}\n{{- end}}", "/one/two"),
        ('{{$x := .Id}}{{if true}}{{$x = "new"}}{{end}}{{$x}}', "new"),
        ('{{split "a/b" "/"}} {{title "hello"}} {{lower "ABC"}} {{slice .Id 0 6}}', "[a b] Hello abc sha256"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{end}}", ""),
        ('{{lt 1 2}} {{ge 2 2}} {{ne "a" "b"}}', "true true true"),
        ('{{define "x"}}[{{.}}]{{end}}{{template "x" .Id}}', "[sha256:abc]"),
        ("{{range .Names}}{{break}}{{end}}{{`raw {{`}}", "raw {{"),
    ],
)
def test_templates_are_filled_in(template: str, text: str) -> None:
    assert Template(template).execute(DATA) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Id", "template: :1: unclosed action"),
        ("{{foo .Id}}", 'template: :1: function "foo" not defined'),
        ("{{}}", "template: :1: missing value for command"),
        ("{{if .Id}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
    ],
)
def test_what_is_no_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as refusal:
        Template(template)
    assert str(refusal.value) == message


def test_a_missing_field_is_named_with_its_place() -> None:
    with pytest.raises(TemplateError) as refusal:
        Template("{{.Id}}\n{{.Foo}}").execute(DATA)
    assert str(refusal.value) == 'template: :2:2: executing "" at <.Foo>: map has no entry for key "Foo"'
