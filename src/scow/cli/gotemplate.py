"""Go's text/template, as far as `--format` uses it: parsing and execution. The functions are in template_functions.

Data are JSON values (dict, list, str, int, float, bool, None), and objects with a `find_field(name)`. Positions and
words of errors follow Go's, since users and scripts know them.
"""

from __future__ import annotations

import re

from scow.cli.template_functions import (
    FUNCTIONS,
    Nil,
    TemplateError,
    falsy,
    format_value,
    missing_field,
    type_name,
    typed_null,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Scope = dict[str, object]

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\]|\\.)+')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?))
    |(?P<chain>\$?\w*(?:\.\w+)+|\$\w*|\.(?!\w))
    |(?P<word>\w+)
    |(?P<mark>:=|[=|(),]))""",
    re.VERBOSE,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
BRANCHES = ("if", "range", "with")


class Token:
    __slots__ = ("kind", "position", "text")

    def __init__(self, kind: str, text: str, position: int) -> None:
        self.kind = kind
        self.text = text
        self.position = position


class Node:
    """A piece of a parsed template; `source` and `position` are for messages."""

    __slots__ = ("body", "kind", "otherwise", "parts", "position", "source", "value", "variables")

    def __init__(self, kind: str, value: object = None, position: int = 0, source: str = "") -> None:
        self.kind = kind
        self.value = value
        self.position = position
        self.source = source
        self.parts: list[Node] = []
        self.variables: list[str] = []
        self.body: list[Node] = []
        self.otherwise: list[Node] = []


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def unquote(text: str) -> str:
    """Read a Go string or character literal."""
    if text[0] == "`":
        return text[1:-1]

    def escape(match: re.Match[str]) -> str:
        code = match.group(1)
        return ESCAPES.get(code) or (chr(int(code[1:], 16)) if code[0] in "xu" else code)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", escape, text[1:-1])


class Parser:
    """Turns a template's text into nodes."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.tokens: list[Token] = []
        self.defined: dict[str, list[Node]] = {}

    def error(self, message: str, position: int) -> TemplateError:
        line = self.text.count("\n", 0, position) + 1
        return TemplateError(f"template: {self.name}:{line}: {message}")

    def parse(self) -> list[Node]:
        pieces = self._split()
        nodes, end = self._block(pieces, top=True)
        assert end is None
        return nodes

    def _split(self) -> list[tuple[str, int, bool]]:
        """Cut the text into (text, position, is an action), honouring {{- and -}}; the list is reversed."""
        pieces: list[tuple[str, int, bool]] = []
        at, trim = 0, False
        while True:
            start = self.text.find("{{", at)
            plain = self.text[at:] if start < 0 else self.text[at:start]
            if trim:
                plain = plain.lstrip()
            if start < 0:
                pieces.append((plain, at, False))
                break
            inner = start + 2
            if self.text.startswith("{{- ", start):
                plain = plain.rstrip()
                inner += 1
            pieces.append((plain, at, False))
            end = self._action_end(inner)
            trim = self.text[end - 2 : end] == " -"
            action = self.text[inner : end - 1 if trim else end]
            if not action.strip().startswith("/*"):
                pieces.append((action, inner, True))
            at = end + 2
        pieces.reverse()
        return [piece for piece in pieces if piece[0] or piece[2]]

    def _action_end(self, at: int) -> int:
        if self.text[at:].lstrip().startswith("/*"):
            end = self.text.find("*/", at)
            at = end if end >= 0 else at
        match = re.compile(r"""(?:"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\]|\\.)+'|(?!\}\}).)*?\}\}""", re.DOTALL).match(
            self.text, at
        )
        if match is None:
            if re.search(r'^[^"]*"(?:[^"\\]|\\.)*$', self.text[at:].split("\n")[0]):
                raise self.error("unterminated quoted string", at)
            raise self.error("unclosed action", at)
        return match.end() - 2

    def _lex(self, action: str, position: int) -> list[Token]:
        tokens: list[Token] = []
        at = 0
        while action[at:].strip():
            match = TOKEN.match(action, at)
            if match is None or match.lastgroup is None:
                bad = action[at:].lstrip()[0]
                if bad == '"':
                    raise self.error("unterminated quoted string", position)
                raise self.error(
                    f"unexpected {bad!r} in command" if bad != "'" else "unterminated character constant", position
                )
            kind = match.lastgroup
            text, place = match.group(kind), match.start(kind)
            spaced = place > at or not tokens or tokens[-1].text in ("(", "|", ",", "=", ":=")
            if kind == "chain" and not spaced and tokens[-1].text == ")":
                kind = "tail"  # the field of a parenthesised pipeline
            elif kind == "chain" and text[0] not in ".$":
                # `json.Foo`: a word cannot have fields
                raise self.error(
                    f"unexpected <.{text.split('.', 1)[1]}> after term {text.split('.', 1)[0]!r}", position
                )
            tokens.append(Token(kind, text, position + place))
            at = match.end()
        tokens.reverse()
        return tokens

    def _block(self, pieces: list[tuple[str, int, bool]], top: bool = False) -> tuple[list[Node], str | None]:
        """Parse up to the `end` or `else` that closes a block; returns which it was."""
        nodes: list[Node] = []
        while pieces:
            text, position, is_action = pieces.pop()
            if not is_action:
                nodes.append(Node("text", text))
                continue
            self.tokens = self._lex(text, position)
            if not self.tokens:
                raise self.error("missing value for command", position)
            word = self.tokens[-1].text if self.tokens[-1].kind == "word" else ""
            if word in ("end", "else"):
                if top:
                    raise self.error(f"unexpected {{{{{word}}}}}", position)
                self.tokens.pop()
                return nodes, word
            if word in BRANCHES:
                nodes.append(self._branch(word, pieces, position))
            elif word in ("break", "continue"):
                nodes.append(Node(word))
            elif word in ("define", "block"):
                nodes += self._define(word, pieces)
            elif word == "template":
                self.tokens.pop()
                node = Node("template", unquote(self.tokens.pop().text), position)
                if self.tokens:
                    node.parts = [self._pipeline()]
                nodes.append(node)
            else:
                nodes.append(self._pipeline())
        if not top:
            raise self.error("unexpected EOF", len(self.text))
        return nodes, None

    def _define(self, word: str, pieces: list[tuple[str, int, bool]]) -> list[Node]:
        self.tokens.pop()
        name = unquote(self.tokens.pop().text)
        argument = self._pipeline() if self.tokens else None
        self.defined[name], _ = self._block(pieces)
        if word == "define":
            return []
        node = Node("template", name)
        node.parts = [argument] if argument else []
        return [node]

    def _branch(self, word: str, pieces: list[tuple[str, int, bool]], position: int) -> Node:
        self.tokens.pop()
        node = Node(word, position=position)
        node.parts = [self._pipeline()]
        node.body, end = self._block(pieces)
        if end == "else":
            if self.tokens and self.tokens[-1].text in BRANCHES:
                node.otherwise = [self._branch(self.tokens[-1].text, pieces, position)]
            else:
                node.otherwise, end = self._block(pieces)
        return node

    def _pipeline(self, closing: bool = False) -> Node:
        """Parse `[$a[, $b] :=] command | command`, up to the end or a closing parenthesis."""
        tokens = self.tokens
        node = Node("pipe", position=tokens[-1].position if tokens else 0)
        names: list[str] = []
        while len(tokens) > 1 and tokens[-1].text.startswith("$") and tokens[-2].text in (",", ":=", "="):
            names.append(tokens.pop().text)
            mark = tokens.pop().text
            if mark != ",":
                node.variables, node.value = names, mark
                break
        while True:
            node.parts.append(self._command())
            if not tokens or (closing and tokens[-1].text == ")"):
                break
            separator = tokens.pop()
            if separator.text != "|":
                raise self.error(f"unexpected {separator.text!r} in command", separator.position)
        return node

    def _command(self) -> Node:
        node = Node("command", position=self.tokens[-1].position if self.tokens else len(self.text))
        while self.tokens and self.tokens[-1].text not in ("|", ")"):
            node.parts.append(self._operand())
        if not node.parts:
            raise self.error("missing value for command", node.position)
        return node

    def _operand(self) -> Node:
        token = self.tokens.pop()
        kind, text, position = token.kind, token.text, token.position
        node = Node("literal", None, position, text)
        if text == "(":
            node = self._pipeline(closing=True)
            if not self.tokens:
                raise self.error("unclosed left paren", position)
            self.tokens.pop()
            if self.tokens and self.tokens[-1].kind == "tail":
                tail = self.tokens.pop()
                outer = Node("fields", tail.text[1:].split("."), tail.position, tail.text)
                outer.parts = [node]
                return outer
        elif kind == "string":
            node.value = ord(unquote(text)) if text[0] == "'" else unquote(text)
        elif kind == "number":
            node.value = float(text) if re.fullmatch(r"[-+]?\d+(\.\d+|[eE]|\.\d+[eE]).*", text) else int(text, 0)
        elif kind == "chain":
            head, *fields = text.split(".")
            node.kind = "chain"
            node.value = [head, [field for field in fields if field]]
        elif text in ("true", "false"):
            node.value = text == "true"
        elif text == "nil":
            node.value = None
        elif kind == "word":
            if text not in FUNCTIONS:
                raise self.error(f'function "{text}" not defined', position)
            node.kind, node.value = "function", text
        else:
            raise self.error(f"unexpected {text!r} in operand", position)
        return node


class Template:
    """A parsed template. Raises TemplateError if `text` is none."""

    def __init__(self, text: str, name: str = "") -> None:
        parser = Parser(text, name)
        self.text = text
        self.name = name
        self.nodes = parser.parse()
        self.defined = parser.defined

    def execute(self, data: object) -> str:
        """Fill the template in. Raises TemplateError."""
        out: list[str] = []
        self._run(self.nodes, data, {"$": data}, out.append)
        return "".join(out)

    def _error(self, node: Node, message: str) -> TemplateError:
        line = self.text.count("\n", 0, node.position) + 1
        column = node.position - (self.text.rfind("\n", 0, node.position) + 1)
        where = f"template: {self.name}:{line}:{column}: executing {quoted(self.name)}"
        return TemplateError(f"{where} at <{node.source}>: {message}")

    def _run(self, nodes: Sequence[Node], dot: object, scope: Scope, write: Callable[[str], None]) -> None:
        for node in nodes:
            kind = node.kind
            if kind == "text":
                write(str(node.value))
            elif kind == "pipe":
                value = self._pipe(node, dot, scope)
                if not node.variables:
                    write(format_value(value))
            elif kind in ("if", "with"):
                inner = dict(scope)
                value = self._pipe(node.parts[0], dot, inner)
                chosen = node.otherwise if falsy(value) else node.body
                self._nested(chosen, value if kind == "with" and chosen is node.body else dot, scope, inner, write)
            elif kind == "range":
                self._range(node, dot, scope, write)
            elif kind == "template":
                argument = self._pipe(node.parts[0], dot, scope) if node.parts else None
                if node.value not in self.defined:
                    raise self._error(node, f'template "{node.value}" not defined')
                self._run(self.defined[str(node.value)], argument, {"$": argument}, write)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue

    def _nested(
        self, nodes: Sequence[Node], dot: object, scope: Scope, inner: Scope, write: Callable[[str], None]
    ) -> None:
        self._run(nodes, dot, inner, write)
        scope.update((name, inner[name]) for name in scope)  # `$x = ..` inside reaches out, `$x := ..` doesn't

    def _range(self, node: Node, dot: object, scope: Scope, write: Callable[[str], None]) -> None:
        pipe = node.parts[0]
        inner = dict(scope)
        variables, pipe.variables = pipe.variables, []
        try:
            value = self._pipe(pipe, dot, inner)
        finally:
            pipe.variables = variables
        pairs: list[tuple[object, object]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(value)]
        elif value is None or isinstance(value, Nil):
            pairs = []
        else:
            raise self._error(pipe.parts[0].parts[0], f"range can't iterate over {format_value(value)}")
        if not pairs:
            self._nested(node.otherwise, dot, scope, dict(scope), write)
        for key, item in pairs:
            if len(variables) == 2:
                inner[variables[0]], inner[variables[1]] = key, item
            elif variables:
                inner[variables[0]] = item
            try:
                self._nested(node.body, item, scope, inner, write)
            except _Continue:
                continue
            except _Break:
                break

    def _pipe(self, node: Node, dot: object, scope: Scope) -> object:
        value: object = None
        for number, command in enumerate(node.parts):
            value = self._execute(command, dot, scope, [value] if number else [])
        for name in node.variables:
            if node.value == "=" and name not in scope:
                raise self._error(node, f"undefined variable {quoted(name)}")
            scope[name] = value
        return value

    def _execute(self, command: Node, dot: object, scope: Scope, final: list[object]) -> object:
        first, *rest = command.parts
        if first.kind == "function":
            name = str(first.value)
            if name in ("and", "or") and not final:
                value: object = None
                for part in rest:
                    value = self._value(part, dot, scope)
                    if falsy(value) == (name == "and"):
                        break
                return value
            arguments = [self._value(part, dot, scope) for part in rest] + final
            try:
                return FUNCTIONS[name](*arguments)
            except TemplateError as error:
                shown = Node("command", position=first.position, source=self._source(command))
                raise self._error(shown, f"error calling {name}: {error}") from None
            except TypeError:
                message = f"wrong number of args for {name}: got {len(arguments)}"
                raise self._error(Node("command", position=first.position, source=name), message) from None
        arguments = [self._value(part, dot, scope) for part in rest] + final
        value = self._value(first, dot, scope, callable_result=bool(arguments))
        if arguments:
            if not callable(value):
                raise self._error(
                    first, f"{first.source.rsplit('.', 1)[-1]} has arguments but cannot be invoked as function"
                )
            return value(*arguments)
        return value

    def _source(self, command: Node) -> str:
        return " ".join(part.source or "(...)" for part in command.parts)

    def _value(self, node: Node, dot: object, scope: Scope, callable_result: bool = False) -> object:
        if node.kind == "literal":
            return node.value
        if node.kind == "pipe":
            return self._pipe(node, dot, scope)
        if node.kind == "function":
            return self._execute(_wrap(node), dot, scope, [])
        if node.kind == "fields":
            fields = node.value
            assert isinstance(fields, list)
            return self._fields(node, self._value(node.parts[0], dot, scope), fields, callable_result)
        assert isinstance(node.value, list)
        head, fields = node.value
        value = dot
        if head:
            if head not in scope:
                raise self._error(node, f"undefined variable {quoted(head)}")
            value = scope[head]
        return self._fields(node, value, fields, callable_result)

    def _fields(self, node: Node, value: object, fields: list[str], callable_result: bool) -> object:
        parent = ""
        for name in fields:
            if isinstance(value, dict):
                value = typed_null(name, value[name]) if name in value else self._missing(node, parent, name)
            elif hasattr(value, "find_field"):
                try:
                    value = value.find_field(name)
                except KeyError:
                    raise self._error(
                        node, f"can't evaluate field {name} in type *{getattr(value, 'kind', 'object')}"
                    ) from None
            elif value is None or isinstance(value, Nil):
                raise self._error(node, f"nil pointer evaluating interface {{}}.{name}")
            else:
                raise self._error(node, f"can't evaluate field {name} in type {type_name(value)}")
            parent = name
        if callable(value) and not callable_result:
            return value()
        return value

    def _missing(self, node: Node, parent: str, name: str) -> object:
        known, value = missing_field(parent, name)
        if not known:
            raise self._error(node, f"map has no entry for key {quoted(name)}")
        return value


def quoted(text: str) -> str:
    return f'"{text}"'


def _wrap(node: Node) -> Node:
    command = Node("command", position=node.position, source=node.source)
    command.parts = [node]
    return command
