"""Reads the recorded table of kombu's public names and says where the package differs from it.

``api.json`` holds, per module: classes (bases, constructor, members), functions, aliases and values. A
signature is a list of parameters as one would write them: ``["queue", "no_ack=False", "*", "key=None"]``. A
value is wrapped in a list; ``null`` stands for one that is not compared. ``not_compared`` names kombu's other
modules: a transport comes into the table together with its test.

``omissions.txt`` names what is left out or changed on purpose: a pattern a line, the reason after ``#``. A
pattern is a dotted path below the package, with ``*`` and ``?`` as in the shell; it covers all below it, and
``pools.reset(args)`` is one parameter.
"""

import ast
import functools
import importlib.util
import inspect
import json
import textwrap
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).parent
TABLE = json.loads((HERE / 'api.json').read_text())
PACKAGE = 'greenmq'


class Omissions:
    """The patterns of omissions.txt, and which of them were needed."""

    def __init__(self, text):
        self.reasons = {}
        for line in text.splitlines():
            pattern, _, reason = line.partition('#')
            if pattern.strip():
                self.reasons[pattern.strip()] = reason.strip()
        self.used = set()

    def cover(self, path):
        """True if a pattern matches the path, or something the path lies below."""
        name, bracket, _ = path.partition('(')
        parts = name.split('.')
        above = ['.'.join(parts[:n]) for n in range(1, len(parts) + 1)] + [path] * bool(bracket)
        hits = {p for p in self.reasons for candidate in above if fnmatchcase(candidate, p)}
        self.used |= hits
        return bool(hits)


def find(path):
    """The object behind a dotted path below the package, or AttributeError."""
    dotted = PACKAGE
    value = importlib.import_module(dotted)
    for part in path.split('.') if path else ():
        dotted += '.' + part
        # Modules first: `utils.uuid` is a module, and `utils` has a function of that name.
        if inspect.ismodule(value) and hasattr(value, '__path__') and importlib.util.find_spec(dotted):
            value = importlib.import_module(dotted)
        else:
            value = getattr(value, part)
    return value


# ---------------------------------------------------------------- signatures

def split(parameters):
    """A recorded signature taken apart: (name, default) of the positional and of the keyword-only parameters,
    and whether it takes ``*args`` and ``**kwargs``."""
    positional, keywords, args, kwargs = [], [], False, False
    for parameter in parameters:
        name, equals, default = parameter.partition('=')
        if name == '/':
            positional = [(None, default) for _, default in positional]     # no caller can use these names
        elif name.startswith('**'):
            kwargs = True
        elif name.startswith('*'):
            args, keywords = args or name != '*', keywords or [('*', None)]
        else:
            (keywords if keywords else positional).append((name, default if equals else None))
    return positional, keywords[1:], args, kwargs


def calls(parameters):
    """The calls that the recorded signature allows, at its corners, as (what it shows, args, kwargs)."""
    positional, keywords, args, kwargs = split(parameters)
    names = [name for name, _ in positional]
    named = {name: name for name, _ in keywords}
    yield 'all by position', names, named
    if None not in names:
        yield 'all by keyword', [], {**{name: name for name in names}, **named}
    yield ('without what has a default', [name for name, default in positional if default is None],
           {name: name for name, default in keywords if default is None})
    if args:
        yield 'more positions', [*names, 'more'], named
    if kwargs:
        yield 'any keyword', names, {**named, 'some_other_name': 0}


def binds(signature, args, kwargs):
    """Why the call does not reach the parameters of the same names; None where it does."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        return str(exc)
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            if isinstance(value, str) and value != name:
                return f'{value!r} arrives as {name!r}'
    return None


def compare_signature(path, recorded, function, drop, omissions):
    """What is wrong with a signature; `drop` is the number of leading parameters that callers do not give."""
    try:
        found = list(inspect.signature(function).parameters.values())[drop:]
    except (TypeError, ValueError):                          # written in C and silent about it
        return
    signature = inspect.Signature(found)
    omitted = {p for p in recorded if omissions.cover(f'{path}({bare(p)})')}
    # One that is still there has kept its place and changed its default.
    recorded = [p for p in recorded if p not in omitted or bare(p) in signature.parameters]
    for shows, args, kwargs in calls(recorded):
        wrong = binds(signature, args, kwargs)
        if wrong is not None:
            yield f'{path}: {shows}: {wrong}'
    for parameter in recorded:
        have = signature.parameters.get(bare(parameter))
        default = parameter.partition('=')[2]
        if have is None or have.default is have.empty or not default or parameter in omitted:
            continue
        if literal(default) is not None and literal(default) != literal(repr(have.default)):
            yield f'{path}: {have.name} is {have.default!r} where {default} was'


def bare(parameter):
    return parameter.partition('=')[0].lstrip('*')


def literal(text):
    """The value of a literal; None for what is not one, and so is not compared."""
    inner = text.removeprefix('frozenset(').removesuffix(')') if text.startswith('frozenset(') else text
    try:
        return repr(ast.literal_eval(inner)) if inner is text else ast.literal_eval(inner or 'None')
    except (ValueError, SyntaxError):
        return None


# ---------------------------------------------------------------- members and names

COMPUTED = (property, functools.cached_property)


def static(cls, name):
    return inspect.getattr_static(cls, name, None)


def compare_method(path, recorded, cls, name, omissions):
    raw = static(cls, name)
    if isinstance(raw, COMPUTED) or not callable(getattr(cls, name, None)):
        yield f'{path}: no method but {type(raw).__name__}'
    elif recorded is not None and not inspect.isclass(raw):
        function, drop = raw, 1
        if isinstance(raw, (classmethod, staticmethod)):
            function, drop = raw.__func__, int(isinstance(raw, classmethod))
        yield from compare_signature(path, recorded, function, drop, omissions)


def compare_value(path, recorded, found):
    if recorded is None or inspect.isclass(found):
        return
    if isinstance(found, (set, frozenset, tuple, list, dict)):
        found = json.loads(json.dumps(found, default=as_json).replace(f'"{PACKAGE}.', '"kombu.'))
    if found != recorded[0]:
        yield f'{path}: is {found!r} where {recorded[0]!r} was'


def as_json(value):
    return sorted(value) if isinstance(value, (set, frozenset)) else repr(value)


@functools.cache
def set_on_instances(cls):
    """Names that the class's own methods assign on an instance, or that it declares."""
    names = set(vars(cls).get('__annotations__', ())) | set(vars(cls).get('__slots__', ()))
    names.update(attr[0] for attr in vars(cls).get('attrs', ()))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):                             # made in C, or by namedtuple
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ('self', 'obj'):
                names.add(node.attr)
    return names


def compare_class(path, recorded, cls, omissions):
    """What is wrong with a class."""
    lineage = {klass.__name__ for klass in cls.__mro__}
    for base in recorded['bases']:
        if '.' in base and base.rpartition('.')[2] not in lineage and not omissions.cover(base):
            yield f'{path}: is no {base}'
    if 'init' in recorded:
        maker = cls.__init__ if cls.__init__ is not object.__init__ else cls.__new__
        if maker is object.__new__:                          # whose signature is not what object() takes
            maker = object.__str__
        yield from compare_signature(path, recorded['init'], maker, 1, omissions)
    kinds = ('methods', 'classmethods', 'staticmethods', 'properties', 'attributes', 'inherited')
    for kind in kinds:
        members = recorded.get(kind, {})
        for name in members:
            below = f'{path}.{name}'
            if omissions.cover(below):
                continue
            if static(cls, name) is None and not hasattr(cls, name):
                yield f'{below}: missing'
            elif kind in kinds[:3]:
                yield from compare_method(below, members[name], cls, name, omissions)
            elif kind == 'properties' and inspect.isfunction(static(cls, name)):
                yield f'{below}: a method where a property was'
            elif kind == 'attributes' and not isinstance(static(cls, name), COMPUTED):
                yield from compare_value(below, members[name], getattr(cls, name))
    for name in recorded.get('special', ()):
        if name == '__ne__':                                 # Python 3 makes it from __eq__
            name = '__eq__'
        if static(cls, name) in (None, static(object, name)):
            yield f'{path}: does not define {name}'
    known = set(dir(cls)).union(*map(set_on_instances, cls.__mro__))
    for name in recorded.get('instance', ()):
        if name not in known and not omissions.cover(f'{path}.{name}'):
            yield f'{path}.{name}: is not set on instances'


def compare_module(name, omissions):
    """Everything in which a module of the package falls short of the recorded one, a sentence each."""
    if omissions.cover(name):
        return
    recorded = TABLE['modules'][name]
    module = find(name)
    for kind in ('classes', 'functions', 'aliases', 'values'):
        for public, facts in recorded.get(kind, {}).items():
            path = f'{name}.{public}'.lstrip('.')
            if omissions.cover(path):
                continue
            found = getattr(module, public, inspect)
            if found is inspect:
                yield f'{path}: missing'
            elif kind == 'classes':
                if inspect.isclass(found):
                    yield from compare_class(path, facts, found, omissions)
                else:
                    yield f'{path}: no class but {found!r}'
            elif kind == 'functions':
                yield from compare_signature(path, facts, found, 0, omissions)
            elif kind == 'aliases':
                yield from compare_alias(path, facts, found)
            else:
                yield from compare_value(path, facts, found)
    missing = set(recorded.get('all', ())) - set(getattr(module, '__all__', ()))
    for public in sorted(missing):
        if not omissions.cover(f'{name}.{public}'.lstrip('.')):
            yield f'{name}.__all__: lacks {public}'


def compare_alias(path, origin, found):
    """One object under two names; where the other name is not ours there is nothing to compare."""
    if origin.rpartition('.')[0] in TABLE['modules'] and found is not find(origin):
        yield f'{path}: is not {origin}'


def compare_hook(path, facts, omissions):
    """Private names that other programs call, override or assign."""
    if omissions.cover(path):
        return
    owner, _, name = path.rpartition('.')
    try:
        holder = find(owner)
    except AttributeError:
        yield f'{path}: missing'
        return
    found = getattr(holder, name, None)
    known = set(dir(holder))
    if inspect.isclass(holder):
        known |= set().union(*map(set_on_instances, holder.__mro__))
    if name not in known:
        yield f'{path}: missing ({facts["used_by"]})'
    elif 'params' in facts and callable(found):
        yield from compare_signature(path, facts['params'], found, int(inspect.isclass(holder)), omissions)
