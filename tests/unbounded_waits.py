"""Finds, in Python source, the waits that no deadline ends.

It reads the syntax tree and goes by names, since types are not there to be asked:
- a call that blocks (or whose await does) must be given a timeout that is not a literal None;
- what is awaited must be a call, or stand inside `within`, `all_within`, `asyncio.wait_for` or a block under
  `asyncio.timeout`; a bare name is a future or a task, and `X.remote(...)` an answer of another process. The body of an
  awaited call is not looked up: ours is walked where it is defined, and a stranger's is taken on trust;
- a lock, a pool of workers and an iteration over a stream wait as well, without a word that says so.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

FUNCTIONS: dict[str, int | None] = {
    "ray.get": None,
    "ray.wait": None,
    "asyncio.wait": None,
    "asyncio.as_completed": 1,
    "concurrent.futures.wait": 1,
    "concurrent.futures.as_completed": 1,
    "multiprocessing.connection.wait": 1,
    "select.select": 3,
    "socket.create_connection": 1,
    "subprocess.run": None,
    "subprocess.call": None,
    "subprocess.check_call": None,
    "subprocess.check_output": None,
    "urllib.request.urlopen": 2,
    "requests.get": None,
    "requests.post": None,
}
"""Functions that wait, and the place of `timeout` among their positional arguments; None: by keyword alone."""
GROUPS = ("init_process_group", "new_group")
"""Ends of the names of functions, from whichever module, that meet other processes and take `timeout` by keyword."""
METHODS: dict[str, int] = {"result": 0, "join": 0, "wait": 0, "communicate": 1, "wait_for": 1}
"""Methods that wait, of processes, threads, futures, events and conditions, and the place of their `timeout`."""
RECEIVERS = ("recv", "recv_bytes", "recv_into", "recvfrom", "recvmsg", "accept")
"""Methods of sockets and pipes: bounded by `settimeout`, `poll` or `select` in the same function."""
DEADLINES = ("within", "all_within")
"""`orchestrator.deadline`: whatever stands in their arguments is bounded."""
GATHERINGS = ("asyncio.gather", "asyncio.shield", "asyncio.ensure_future", "asyncio.create_task")
"""What is awaited with these are their arguments."""
POOLS = ("Popen", "ThreadPoolExecutor", "ProcessPoolExecutor", "TaskGroup")
"""Context managers that wait at the end of their block until all that they started has ended."""
LOCKS = ("lock", "rlock", "filelock", "mutex", "semaphore", "condition")
"""Last words of the names of what a `with` may wait for, in lower case."""

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait without a deadline: the function (`Class.method`) it stands in, its line and its text."""

    function: str
    line: int
    text: str


def unbounded_waits(source: str) -> list[Wait]:
    """All of them in this module, in order of lines."""
    tree = ast.parse(source)
    walker = _Walker(_imported_names(tree))
    walker.visit(tree)
    return sorted(walker.found, key=lambda wait: wait.line)


@dataclass
class _Walker(ast.NodeVisitor):
    imported: dict[str, str]
    found: list[Wait] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    has_guard: bool = False
    """The function polls, or sets a timeout on a socket."""
    in_deadline: bool = False
    """Inside the arguments of a call that ends the wait in time."""
    in_timeout_block: bool = False
    """Inside `async with asyncio.timeout(...)`, which ends awaits in time, but nothing that blocks the thread."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scopes.append(node.name)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node, node.name)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._name(node.func)
        if not self.in_deadline and self._waits_for_ever(node, name):
            self._report(node, node)
        before = self.in_deadline
        self.in_deadline |= self._is_deadline(node, name)
        self.generic_visit(node)
        self.in_deadline = before

    def visit_Await(self, node: ast.Await) -> None:
        before = self.in_deadline
        self.in_deadline |= self.in_timeout_block
        if not self.in_deadline:
            for future in self._futures(node.value):
                self._report(node, future)
        self.generic_visit(node)
        self.in_deadline = before

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        if not (self.in_deadline or self.in_timeout_block):
            self._report(node, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if node.is_async and not (self.in_deadline or self.in_timeout_block):
            self._report(node.iter, node.iter)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self._visit_block(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._visit_block(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> None:
        outer = (self.has_guard, self.in_deadline, self.in_timeout_block)
        self.has_guard, self.in_deadline, self.in_timeout_block = self._guards(node), False, False
        self.scopes.append(name)
        self.generic_visit(node)
        self.scopes.pop()
        self.has_guard, self.in_deadline, self.in_timeout_block = outer

    def _visit_block(self, node: ast.With | ast.AsyncWith) -> None:
        before = self.in_timeout_block
        for item in node.items:
            call = item.context_expr
            name = self._name(call.func if isinstance(call, ast.Call) else call)
            last = name.rpartition(".")[2]
            is_in_time = isinstance(node, ast.AsyncWith) and self.in_timeout_block
            if name in ("asyncio.timeout", "asyncio.timeout_at") and isinstance(call, ast.Call):
                self.in_timeout_block |= _is_given(call, 0, "when")
            elif not is_in_time and (last in POOLS or last.lower().rpartition("_")[2] in LOCKS):
                self._report(node, call)
        self.generic_visit(node)
        self.in_timeout_block = before

    def _waits_for_ever(self, node: ast.Call, name: str) -> bool:
        last = name.rpartition(".")[2]
        is_method = isinstance(node.func, ast.Attribute)
        if name in FUNCTIONS:
            return not _is_given(node, FUNCTIONS[name])
        if last.endswith(GROUPS):
            return not _is_given(node, None)
        if name in ("os.system", "os.wait", "signal.pause", "input"):
            return True
        if name in ("os.waitpid", "os.waitid", "os.wait3", "os.wait4"):
            return "WNOHANG" not in ast.unparse(node)
        if last == "acquire" and is_method:
            return not (_is_false(node, 0, "blocking") or _is_given(node, 1))
        if last == "get" and is_method:
            options = {given.arg for given in node.keywords} <= {"block", "timeout"}
            asks_a_queue = options and (not node.args or _is_constant(node.args[0], True))
            return asks_a_queue and not (_is_false(node, 0, "block") or _is_given(node, 1))
        if last == "join" and is_method and isinstance(node.func, ast.Attribute):
            is_of_text = isinstance(node.func.value, ast.Constant) or name == "os.path.join"
            return not is_of_text and not _is_given(node, 0)
        if last in RECEIVERS and is_method:
            return not self.has_guard
        return is_method and last in METHODS and not _is_given(node, METHODS[last])

    def _is_deadline(self, node: ast.Call, name: str) -> bool:
        if name == "asyncio.wait_for":
            return _is_given(node, 1)
        return name.rpartition(".")[2] in DEADLINES

    def _futures(self, awaited: ast.expr) -> Iterator[ast.expr]:
        """What is awaited here that is not the call of a coroutine function."""
        match awaited:
            case ast.Call() if self._name(awaited.func) in GATHERINGS:
                for argument in awaited.args:
                    yield from self._futures(argument)
            case ast.Call(func=ast.Attribute(attr="remote")):
                yield awaited
            case ast.Call():
                pass
            case ast.Starred():
                yield from self._futures(awaited.value)
            case ast.List() | ast.Tuple() | ast.Set():
                for element in awaited.elts:
                    yield from self._futures(element)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                yield from self._futures(awaited.elt)
            case ast.IfExp():
                yield from self._futures(awaited.body)
                yield from self._futures(awaited.orelse)
            case _:
                yield awaited

    def _guards(self, function: Function) -> bool:
        for node in _own_nodes(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("settimeout", "poll") and node.args and not _may_be_none(node.args[0]):
                return True
            if self._name(node.func) == "select.select" and _is_given(node, 3):
                return True
        return False

    def _name(self, expression: ast.expr) -> str:
        """`asyncio.wait` for what was imported so, by whichever name; `self._queue.get`; `().get` beyond names."""
        match expression:
            case ast.Name():
                return self.imported.get(expression.id, expression.id)
            case ast.Attribute():
                return f"{self._name(expression.value)}.{expression.attr}"
        return "()"

    def _report(self, node: ast.stmt | ast.expr, wait: ast.expr) -> None:
        self.found.append(Wait(".".join(self.scopes) or "module", node.lineno, ast.unparse(wait)))


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: `{"dist": "torch.distributed", "run": "subprocess.run"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting += ast.iter_child_nodes(node)


def _argument(call: ast.Call, place: int | None, keyword: str) -> ast.expr | None:
    for given in call.keywords:
        if given.arg == keyword:
            return given.value
    return call.args[place] if place is not None and place < len(call.args) else None


def _is_given(call: ast.Call, place: int | None, keyword: str = "timeout") -> bool:
    argument = _argument(call, place, keyword)
    return argument is not None and not _may_be_none(argument)


def _is_false(call: ast.Call, place: int, keyword: str) -> bool:
    argument = _argument(call, place, keyword)
    return argument is not None and _is_constant(argument, False)


def _is_constant(expression: ast.expr, value: bool | None) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is value


def _may_be_none(expression: ast.expr) -> bool:
    """Whether None is written here: alone, or in a branch of `a if b else None`."""
    branches: Sequence[ast.expr] = [expression]
    if isinstance(expression, ast.IfExp):
        branches = (expression.body, expression.orelse)
    return any(_is_constant(branch, None) for branch in branches)
