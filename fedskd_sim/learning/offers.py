"""Code of a user's own in files beside the scenario: what it offers by the decorators here, as
packages offer it by entry points.

    from fedskd_sim import architecture, loss

    @architecture("my-cnn")
    def build(channels, image_size, classes, *, width=32): ...

    @loss("focal", replaces=True)
    def focal(step, role, *, gamma=2.0): ...

The files are imported from the bytes that were read when the run was launched, whatever stands on
the disk since, and under their own names; they import each other as modules that lie side by side
do. Python's path does not change.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from importlib.util import spec_from_loader
from pathlib import Path
from threading import RLock
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeVar

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.scenario import ALGORITHMS, OwnCode, explain_class
from fedskd_sim.scenario.own import NAMES

ARCHITECTURES = "fedskd_sim.architectures"
READERS = "fedskd_sim.readers"
LOSSES = "fedskd_sim.losses"
MARK = "__fedskd_sim_offers__"
Thing = TypeVar("Thing", bound=Callable[..., Any])


class Offer(NamedTuple):
    """What an object is offered as: the entry point group that a package would use, and a name."""

    group: str
    name: str


def _offering(group: str, name: str) -> Callable[[Thing], Thing]:
    def mark(thing: Thing) -> Thing:
        setattr(thing, MARK, Offer(group, name))
        return thing

    if not isinstance(name, str) or not name:
        text = f"it is offered under a name, as in @architecture('my-cnn'), not {name!r}"
        raise TypeError(text)
    return mark


def architecture(name: str) -> Callable[[Thing], Thing]:
    """Offer a function, or a class of networks, as an architecture. It is called as
    ``(channels, image_size, classes, *, option=default)`` and returns a `torch.nn.Module`.

    For a batch of B inputs, such as images (B, channels, image_size, image_size), the network
    returns ``logits, Taps(mid, deep)``, with logits (B, classes). Scenarios name it as
    ``architecture: {name: NAME, options: {...}}``. It is tried before anything starts, and errors
    name its line.

    Raises:
        TypeError: the name is no text, or empty. So do `reader`, `algorithm` and `loss`.

    >>> @architecture("my-cnn")
    ... def my_cnn(channels, image_size, classes, *, width=16):
    ...     raise NotImplementedError("a network")
    >>> my_cnn.__name__
    'my_cnn'

    """
    return _offering(ARCHITECTURES, name)


def reader(name: str) -> Callable[[Thing], Thing]:
    """Offer a function as a reader of data. It is called as ``(folder, *, option=default)`` and
    returns a `Cohort` with all samples of all sites; the program gives each hospital its own.

    ``folder`` is a path, that of ``--data`` or ``FEDSKD_DATA``. Scenarios name the reader as
    ``data: {name: own, reader: NAME, options: {...}}``.

    >>> @reader("two-patients")
    ... def two_patients(folder, *, size=8):
    ...     raise NotImplementedError("a Cohort")
    >>> two_patients.__name__
    'two_patients'

    """
    return _offering(READERS, name)


def algorithm(name: str) -> Callable[[Thing], Thing]:
    """Offer a class on one of the bases (`LocalLearner`, `CirculatingLearner`, `AllReduceLearner`,
    `AveragingLearner`, `GossipLearner`) as an algorithm, which scenarios name as
    ``algorithm.name``.

    Its attribute ``keys`` is a subclass of the base's ``keys``, with the keys that scenarios may
    set. The class itself is unchanged. Give it to `launch` as ``code``, or put its file under the
    scenario's ``code``.

    >>> @algorithm("my-method")
    ... class MyMethod:
    ...     "A learner on LocalLearner, CirculatingLearner or another base."
    >>> MyMethod.__name__
    'MyMethod'

    """
    return _offering(ALGORITHMS, name)


def loss(name: str, *, replaces: bool = False, one_label: bool = False) -> Callable[[Thing], Thing]:
    """Offer a function, or a subclass of `Loss`, as the ``algorithm.loss`` of any algorithm. A
    function gets the `TrainingStep` and returns a scalar tensor.

    Args:
        name: its name in scenarios.
        replaces: False: the function ``(step, *, option=default)`` is added to the cross-entropies
            of all models. True: ``(step, role, *, option=default)`` takes the place of the
            cross-entropy, for each model that trains.
        one_label: True: data with several labels per sample are refused. Such labels are patterns
            of bits, and logits those of a sigmoid for each label.

    >>> @loss("confident", replaces=True, one_label=True)
    ... def confident(step, role, *, share=0.1):
    ...     "Cross-entropy, less a share of the predictions' entropy."
    ...     log = step.logits(role).log_softmax(1)
    ...     return step.cross_entropy(role) + share * (log.exp() * log).sum(1).mean()

    """

    def mark(thing: Thing) -> Thing:
        setattr(thing, REPLACES, replaces)
        setattr(thing, NEEDS_ONE_LABEL, one_label)
        return _offering(LOSSES, name)(thing)

    return mark


REPLACES, NEEDS_ONE_LABEL = "__fedskd_sim_replaces__", "__fedskd_sim_one_label__"


class _Source(SourceLoader):
    """Loads modules from bytes that are in memory."""

    def __init__(self, code: OwnCode) -> None:
        self._code = code

    def get_filename(self, fullname: str) -> str:
        """Return where a module was read from, for tracebacks."""
        return str(Path(self._code.home) / _file_of(self._code, fullname))

    def get_data(self, path: bytes | str) -> bytes:
        """Return the bytes of a module."""
        return self._code.files[Path(str(path)).relative_to(self._code.home).as_posix()]


class _Finder(MetaPathFinder):
    """Finds the modules of the code, and no others."""

    def __init__(self, code: OwnCode) -> None:
        self._code = code

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - asked of every finder
        target: ModuleType | None = None,  # noqa: ARG002 - as above
    ) -> ModuleSpec | None:
        """Find a module of the code; None for any other."""
        name = _file_of(self._code, fullname)
        if not name:
            return None
        inner = name.endswith("/__init__.py")
        spec = spec_from_loader(fullname, _Source(self._code), is_package=inner)
        if spec and inner:
            spec.submodule_search_locations = [str(Path(self._code.home, name).parent)]
        return spec


def _file_of(code: OwnCode, module: str) -> str:
    """Return the file of a module; '' where the code has none of that name."""
    stem = module.replace(".", "/")
    return next((one for one in (f"{stem}.py", f"{stem}/__init__.py") if one in code.files), "")


def code_of(things: Sequence[Any], *, as_files: bool) -> OwnCode:
    """Make of classes and functions what a scenario's ``code`` would be.

    Args:
        things: what decorators of this module have marked.
        as_files: whether other processes are to import them: by the files in which they stand.

    Raises:
        InvalidValue: one is not marked, or stands in no file.

    """
    for thing in things:
        if not isinstance(getattr(thing, "__dict__", {}).get(MARK), Offer):
            text = f"{thing!r} offers nothing"
            fix = "decorate it with @architecture, @reader, @loss or @algorithm and a name"
            raise InvalidValue(text, fix=fix)
    if not as_files:
        return OwnCode({}, "", tuple(things), "\n".join(map(_source, things)))
    files = dict[str, bytes]()
    for thing in things:
        module = sys.modules.get(thing.__module__)
        file = Path(getattr(module, "__file__", None) or "")
        if thing.__module__ == "__main__" and file.is_file():
            text = f"{thing.__name__} stands in {file.name}, and a program that is run is no module"
            fix = "put it into a file that this one imports; only a launch on 'memory' does without"
            raise InvalidValue(text, fix=fix)
        if thing.__module__ == "__main__" or "." in thing.__module__ or not file.is_file():
            text = f"{thing.__name__} stands in no module that hospitals can import"
            fix = "write it into a file and import it; only a launch on 'memory' does without"
            raise InvalidValue(text, fix=fix)
        files[file.name] = file.read_bytes()
    return OwnCode(files, str(file.parent))


def _source(thing: Any) -> str:
    """Return the source of a class or a function, or at least its name."""
    with suppress(OSError, TypeError):
        return inspect.getsource(thing)
    return str(getattr(thing, "__qualname__", thing))


class OwnModules:
    """What the code of the run in this process offers; one code at a time."""

    def __init__(self) -> None:
        """Begin without any."""
        self._lock = RLock()
        self._code: OwnCode | None = None
        self._checked = ""
        """The digest of the code whose names were last compared with those of installed modules,
        which takes a while."""
        self._finder: _Finder | None = None
        self._found: Mapping[Offer, Any] = MappingProxyType({})
        self._hidden: dict[str, ModuleType] = {}
        """What the caller's program has imported under the same names, perhaps before an edit."""

    def use(self, code: OwnCode | None) -> None:
        """Import the code of a run, unless that is what was imported last.

        Raises:
            InvalidValue: a module cannot be imported, or has the name of an installed one; two
                things are offered under one name.

        """
        with self._lock:
            if (code and code.digest) == (self._code and self._code.digest):
                return
            self.forget()
            if code is None:
                return
            if code.digest != self._checked:
                _check_names(code.modules)
            self._checked = code.digest
            self._hidden = _take_out(code)
            self._code, self._finder = code, _Finder(code)
            sys.meta_path.insert(0, self._finder)
            try:
                modules = [_import(name) for name in code.modules]
                found = dict(_offers_of(modules))
                given = {vars(thing).get(MARK): thing for thing in code.things}
                self._found = MappingProxyType(found | given)
            except BaseException:
                self.forget()
                raise

    def forget(self) -> None:
        """Forget all of it, so that the next code of these names is imported anew."""
        with self._lock:
            if self._code:
                _take_out(self._code)
                sys.modules.update(self._hidden)
            if self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            self._code, self._finder, self._found = None, None, MappingProxyType({})
            self._hidden = {}

    @property
    def filenames(self) -> set[str]:
        """Its files, as tracebacks name them."""
        code = self._code
        return {str(Path(code.home) / name) for name in code.files} if code else set()

    def names(self, group: str) -> list[str]:
        """List the names under which something is offered."""
        return sorted(offer.name for offer in self._found if offer.group == group)

    def find(self, group: str, name: str) -> Any:
        """Return what is offered under a name; None where nothing is."""
        return self._found.get(Offer(group, name))


OWN = OwnModules()


def _check_names(names: Sequence[str]) -> None:
    """Refuse modules that would stand in the place of others; raises InvalidValue."""
    installed = packages_distributions() if names else {}
    for name in names:
        if name in sys.stdlib_module_names or name in installed:
            text = f"a module {name!r} is installed, which {name}.py would hide"
            raise InvalidValue(text, fix="rename the file, and what imports it", key=("code",))


def _take_out(code: OwnCode) -> dict[str, ModuleType]:
    """Take modules with the names of the code out of those that are imported."""
    tops = {*code.modules}
    found = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in found}


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except FedskdError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError):  # which says its place by itself
            said = f"{type(error).__name__}: {error.msg}"
        said = explain_class(error, _line_of(error)) or said
        text = f"{name} cannot be imported: {said}{place_of(error)}"
        raise InvalidValue(text, fix="repair it", key=("code",)) from error


def place_of(error: BaseException) -> str:
    """Name the line of the user's own code in which an error was raised; '' where in none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    lines = _own_lines(error)
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""


def _own_lines(error: BaseException) -> list[traceback.FrameSummary]:
    """List the lines of the user's own code through which an error came."""
    own = OWN.filenames
    return [one for one in traceback.extract_tb(error.__traceback__) if one.filename in own]


def _line_of(error: BaseException) -> str:
    """Return the last of these lines, as it is written."""
    lines = _own_lines(error)
    return lines[-1].line or "" if lines else ""


def _offers_of(modules: Sequence[ModuleType]) -> Iterator[tuple[Offer, Any]]:
    """Yield what modules, and those inside their packages, offer; raises InvalidValue for a name
    that is offered twice.
    """
    tops = tuple(module.__name__ for module in modules)
    within = [m for name, m in sys.modules.items() if name.partition(".")[0] in tops]
    seen = dict[Offer, Any]()
    for module in within:
        for thing in vars(module).values():
            offer = vars(thing).get(MARK) if hasattr(thing, "__dict__") else None
            if not isinstance(offer, Offer) or seen.get(offer) is thing:
                continue
            if offer in seen:
                text = f"{offer.name!r} is offered twice, in {module.__name__} the second time"
                raise InvalidValue(text, fix="give each a name of its own", key=("code",))
            if offer.group == ALGORITHMS and offer.name in NAMES:
                text = (
                    f"{offer.name!r} is a built-in algorithm, and {module.__name__} offers it too"
                )
                raise InvalidValue(text, fix="give yours another name", key=("code",))
            seen[offer] = thing
            yield offer, thing
