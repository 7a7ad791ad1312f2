"""Create everything that a sandbox needs before its first process: directories, descriptors, cgroups and the server.

Each resource is registered for cleanup as soon as it exists. Resources that a later command would have to clean up are
written to the run directory's record before they are created.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from sandbox.as_container_root import chown_to_root
from sandbox.errors import SandboxError, SetupError
from sandbox.host.facts import HostFacts
from sandbox.images.direct_bind import LayerRoot
from sandbox.images.layer_store import LayerStore, recorded_digest
from sandbox.kernel import cgroups, open_paths
from sandbox.kernel.cgroups import Cgroup, CgroupLimits
from sandbox.plan import LayerPlan, MountPoint, NamedVolume, Plan, fuse_problem
from sandbox.plan.operations import HOSTS, BindRoot, DirectBind, MountRoot, ShowHosts
from sandbox.runtime.rootfs import name_files
from sandbox.runtime.rootfs.direct_bind import DirectBindSource, choose, choose_root
from sandbox.runtime.rootfs.targets import Links, resolve
from sandbox.runtime.signals import Signals
from sandbox.runtime.trampoline_file import create_trampoline
from sandbox.runtime.unionfs_server import Server
from sandbox.state.directory import StateDirectory
from sandbox.state.sandbox_directory import RunDirectory
from sandbox.state.stack_record import RecordedLayer, RecordedStack
from unionfs._stdlib.dataclasses import replace
from unionfs.launch.protocol import ServedLayer, ServedStack

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.archive_names import ArchiveNames
    from sandbox.images.chunked.fetching import Fetching
    from sandbox.images.reading import Progress
    from sandbox.images.unpacked_trees import StoredLayer
    from sandbox.network.private_network import PrivateNetwork


class SandboxResources:
    """The run directory, layers, volumes, cgroup and joined namespaces of one sandbox.

    The supervisor creates it and passes the ExitStack that closes and removes these resources.
    """

    def __init__(
        self,
        plan: Plan,
        facts: HostFacts,
        state: StateDirectory,
        signals: Signals,
        *,
        warn: Callable[[str], None],
        trace: Callable[[str], None],
        secret: bytes | None = None,
        measure: bool,
        keep_changes: bool = False,
        in_background: bool = False,
        progress: Callable[[], Progress] | None = None,
    ) -> None:
        """Create nothing yet. With *measure*, :meth:`prepare` creates a cgroup even if no limit needs one.

        *keep_changes*: the ephemeral layer outlives the run. *in_background*: no command waits for it. *progress* makes the
        display of the progress of an archive that is read.
        """
        #: The plan; :meth:`prepare` updates it once the kind of root (served or direct bind) is known.
        self.plan = plan
        self._facts = facts
        self._state = state
        self._signals = signals
        self._warn = warn
        self._trace = trace
        self._secret = secret
        self._measure = measure
        self._keep_changes = keep_changes
        self._in_background = in_background
        #: Whether the program ran, so that there are changes to keep.
        self.program_ran = False
        self._progress = progress
        #: The digests of archives by path, for the record of a persistent layer.
        self._digests: dict[str, str] = {}
        self._layers: list[ServedLayer] = []
        #: The layers below the writable one as a later command opens them again, bottom first.
        self._recorded: list[RecordedLayer] = []
        self._index_fd: int | None = None
        #: The layers of images, in the order of the plan, until :meth:`_open_layer` has taken them.
        self._image_layers: list[StoredLayer] = []
        #: The layers without the skeleton, in the form that the checks of direct binds take. Mounted archives are in `_archives`.
        self._trees: list[LayerRoot] = []
        #: The names in the archives that are mounted, by the descriptors of the archives.
        self._archives: dict[int, ArchiveNames] = {}
        #: The layers that are fetched in part, and the process that does it; None if there are none.
        self.fetching: Fetching | None = None
        self._fetcher_fd: int | None = None
        self._upper_fd: int | None = None
        self._work_fd: int | None = None
        self._home: RunDirectory | None = None
        #: The earlier layers of a writable layer that lasts, bottom first, and the directory for later ones.
        self._earlier: list[ServedLayer] = []
        self._later_fd: int | None = None
        self._cgroups_left: tuple[str, ...] = ()
        self.run: RunDirectory
        self.cgroup: Cgroup | None = None
        #: Why there is no cgroup to measure with.
        self.unmeasured: str | None = None
        #: Whether the root needs the server.
        self.served = True
        #: Why the root is served, if a direct bind was possible by the plan.
        self._served_because = ""
        #: The sources of direct binds, including the root's.
        self.direct_binds: tuple[DirectBindSource, ...] = ()
        #: The private network; None for another network.
        self.network: PrivateNetwork | None = None
        #: The namespaces to join, by kind.
        self.joined: dict[str, int] = {}
        #: The descriptor of the memfd through which the program is executed.
        self.trampoline: int

    def open_joined(self, undo: ExitStack) -> None:
        """Open the namespaces to join, before anything is created."""
        if self.plan.joins:
            from sandbox.runtime.join_namespaces import open_joined  # only starts that join need it

            self.joined = open_joined(self.plan, undo)

    @property
    def shares_processes(self) -> bool:
        """Whether the sandbox has no pid namespace of its own, so that its processes do not end with init."""
        return "pid" not in self.plan.namespaces

    @property
    def label(self) -> str:
        """The source of the root in the mount table; unique without a pid namespace, to find the sandbox's processes by it."""
        return f"unionfs:{os.path.basename(self.run.path)}" if self.shares_processes else "unionfs"

    def prepare(self, undo: ExitStack) -> None:
        """Create all resources, and register their cleanup with *undo*."""
        plan = self.plan
        self.trampoline = create_trampoline(self._facts.machine)
        undo.callback(os.close, self.trampoline)
        undo.callback(lambda: self.network is not None and self.network.reap())
        self.run = self._state.new_run(
            plan.ids, name=plan.name, uses=_uses(plan) | {"background": self._in_background}
        )
        undo.callback(self._remove_run)
        if plan.network is not None:
            self._make_network(undo)
        if self.shares_processes:
            self.run.record({"root": self.label})
        self._open_images(undo)
        layers = [self._open_layer(layer, undo) for layer in plan.layers]
        if self.fetching is not None:
            undo.callback(self.fetching.close)
            self._fetcher_fd = self.fetching.start(undo)
        if plan.writable != "none":
            self._open_writable(undo)
        layers += self._earlier
        led = self._resolved_mount_points(layers)
        points = (*plan.skeleton, *(point for point in led if point not in plan.skeleton))
        if any(isinstance(step, DirectBind) for step in plan.operations):
            points = self._choose_direct_binds(points)
        if plan.bound is not None:
            self._choose_root(plan.bound, led)
        if self.served:
            self._layers = [*reversed(layers), self._make_skeleton(points, undo)]
        for volume in plan.volumes:
            undo.callback(os.close, self._open_volume(volume))
        self._chown_to_root()
        if plan.cgroup.given():
            self._make_cgroup(undo)
        elif self._measure:
            self._make_cgroup_to_measure(undo)

    def _make_network(self, undo: ExitStack) -> None:
        from sandbox.runtime.network import make_network  # only starts with such a network need it

        self.network = make_network(
            self.plan,
            self._facts,
            self._state,
            run=self.run.path,
            secret=self._secret,
            warn=self._warn,
            trace=self._trace,
        )
        undo.callback(self.network.close)
        self.run.note({"ports": [str(port) for port in self.network.ports]})

    def _open_volume(self, volume: NamedVolume) -> int:
        plan = self.plan
        return self._state.open_volume(volume.name, plan.ids, mode=volume.mode, file=plan.record.file)

    def _open_layer(self, layer: LayerPlan, undo: ExitStack) -> ServedLayer:
        if layer.kind != "dir":
            with self._signals.ending():  # unpacking or indexing may take minutes
                stored = self._open_archive(layer, undo) if layer.image is None else self._image_layers.pop(0)
            for notice in stored.notices:
                self._warn(notice)
            if stored.archive_fd is not None:
                return self._served_archive(layer, stored, stored.archive_fd)
            # The topmost layer's index descriptor: the index of a stack is stored, and removed, with its topmost layer.
            self._index_fd = stored.index_fd
            self._trees.append(
                LayerRoot(
                    fd=stored.tree_fd, name=f"{layer.kind}:{layer.path}", marks="aufs", place=stored.place
                )
            )
            self._recorded.append(
                RecordedLayer(kind=layer.kind, path=layer.path, place=os.path.basename(stored.place))
            )
            return ServedLayer(fd=stored.tree_fd, marks="aufs", squash=False, indexed=True)
        try:
            fd = open_paths.open_real(layer.path, directory=True)
        except OSError as error:
            raise SetupError.from_os_error(f"layer dir:{layer.path}", "open", error) from None
        undo.callback(os.close, fd)
        self._trees.append(LayerRoot(fd=fd, name=f"dir:{layer.path}", marks="none"))
        self._recorded.append(RecordedLayer(kind="dir", path=layer.path, cross=layer.cross))
        return ServedLayer(fd=fd, marks="none", squash=True, cross=layer.cross)

    def _served_archive(self, layer: LayerPlan, stored: StoredLayer, archive_fd: int) -> ServedLayer:
        from sandbox.images.archive_names import ArchiveNames  # only starts with a mounted archive need it

        members_fd = stored.members_fd
        assert members_fd is not None
        self._archives[archive_fd] = ArchiveNames(members_fd, os.fstat(archive_fd).st_size)
        self._recorded.append(
            RecordedLayer(
                kind=layer.kind,
                path=layer.path,
                place=os.path.basename(stored.place),
                mounted=True,
                lazy=layer.lazy,
            )
        )
        return ServedLayer(
            fd=archive_fd,
            archive_index_fd=members_fd,
            chunks_fd=stored.chunks_fd,
            fetched=self._fetched(layer, stored),
            marks="none",
            squash=False,
        )

    def _fetched(self, layer: LayerPlan, stored: StoredLayer) -> int:
        """Return the number of *layer* in requests for chunks; 0 if it is not fetched in part."""
        if stored.chunks_fd is None:
            return 0
        if self.fetching is None:
            from sandbox.images.chunked.fetching import Fetching

            self.fetching = Fetching(self._state.images, self._warn)
        return self.fetching.add(layer.lazy, stored.place, stored.chunks_fd)

    def _open_archive(self, layer: LayerPlan, undo: ExitStack) -> StoredLayer:
        store = LayerStore(self._state, self._progress)
        if layer.mount:
            from sandbox.images.mounted_archives import MountedArchives

            store = MountedArchives(self._state, self._progress)
        stored = store.open_archive(layer.path, self.plan.ids, layer.identity, file=self.plan.record.file)
        undo.callback(stored.close)
        if self.plan.writable == "persistent":
            self._digests[layer.path] = recorded_digest(stored.place)
        return stored

    def _open_images(self, undo: ExitStack) -> None:
        """Open the layers of all images, and unpack or index those that are missing."""
        if all(layer.image is None for layer in self.plan.layers):
            return
        from sandbox.runtime.image_layers import open_images  # only starts with an image need it

        with self._signals.ending():  # unpacking or indexing may take minutes
            for stored in open_images(self.plan, self._state.images, self._progress, undo):
                self._image_layers.append(stored)

    def _choose_root(self, step: BindRoot, points: tuple[MountPoint, ...]) -> None:
        """Decide between a direct bind of the root and the server, and update the plan."""
        with self._signals.ending():  # the first direct bind of a layer walks it
            found = choose_root(step, self.plan, self._trees[0], points, warn=self._warn)
        root: BindRoot | MountRoot = replace(step, otherwise="refuse")
        if isinstance(found, str):
            if (problem := fuse_problem(self._facts)) is not None:
                raise problem
            self._served_because = found
            root = MountRoot(read_only=True, nosuid=step.nosuid)
        else:
            self.served = False
            self.direct_binds = (found, *self.direct_binds)
        self.plan = replace(self.plan, operations=(root, *self.plan.operations[1:]))

    def settle(self, server: Server, trace: Callable[[str], None]) -> None:
        """Start *server* if the root needs it and it does not run yet; otherwise end it."""
        if not self.served:
            server.abandon()
            trace("direct bind of the root: no server")
            return
        server.start()
        if self._served_because:
            trace(f"no direct bind of the root: {self._served_because}")

    def _make_skeleton(self, points: tuple[MountPoint, ...], undo: ExitStack) -> ServedLayer:
        hosts_shown = any(isinstance(step, ShowHosts) for step in self.plan.operations)
        parent = os.path.dirname(HOSTS)
        if hosts_shown and (
            any(name_files.has_directory(tree.fd) for tree in self._trees)
            or any(names.is_directory(parent) for names in self._archives.values())
        ):
            points = (*points, MountPoint(path=HOSTS, is_directory=False))
        fd = self.run.skeleton(points)
        undo.callback(os.close, fd)
        return ServedLayer(fd=fd, marks="none", squash=True, skeleton=True)

    def _choose_direct_binds(self, points: tuple[MountPoint, ...]) -> tuple[MountPoint, ...]:
        """Find the sources of direct binds; return those of *points* that the skeleton must still contain."""
        trees = self._trees[::-1]
        if self.plan.writable == "persistent" and self._upper_fd is not None and self._home is not None:
            for fd in (*(layer.fd for layer in self._earlier), self._upper_fd):
                trees.insert(0, LayerRoot(fd=fd, name=self._home.path, marks="all", writable=True))
        with self._signals.ending():  # the first direct bind from a layer walks it, which may take long
            self.direct_binds = choose(self.plan, trees, points, warn=self._warn)
        return tuple(
            point
            for point in points
            if not any(point.path.startswith(source.target + "/") for source in self.direct_binds)
        )

    def _resolved_mount_points(self, layers: list[ServedLayer]) -> tuple[MountPoint, ...]:
        """Return the mount points of the plan, with the symbolic links of the layers resolved."""
        trees: list[int | Links] = [self._archives.get(layer.fd, layer.fd) for layer in reversed(layers)]
        if self._upper_fd is not None:
            trees.insert(0, self._upper_fd)
        return tuple(replace(point, path=resolve(point.path, trees)) for point in self.plan.skeleton)

    def _open_writable(self, undo: ExitStack) -> None:
        plan = self.plan
        home = self.run
        layers = tuple(self._recorded)
        if plan.writable == "persistent":
            record = plan.record.with_digests(self._digests)
            home = self._state.persistent(
                plan.ids, name=plan.name, record=record, before=plan.record_before, layers=layers
            )
            undo.callback(home.close)
        elif self._keep_changes:
            identity = os.path.basename(self.run.path)
            home = self._state.kept_changes(
                plan.ids, identity=identity, name=plan.name, record=plan.record, layers=layers
            )
            undo.callback(self._leave_changes, home)
        self._home = home
        self.run.note(RecordedStack(writable=home.layer_path, layers=layers).as_json())
        if home is not self.run:
            home.explain_layer()
            self._later_fd = home.later()
            undo.callback(os.close, self._later_fd)
            if home.stack is not None and home.stack.earlier:
                self._open_all_earlier(home.stack.earlier, undo)
        top = plan.layers[-1]
        mode = top.mode if top.kind == "dir" else 0o755
        self._upper_fd = home.subdirectory("upper", mode=mode)
        undo.callback(os.close, self._upper_fd)
        self._work_fd = home.subdirectory("work", mode=0o700)
        undo.callback(os.close, self._work_fd)

    def _open_all_earlier(self, earlier: tuple[str, ...], undo: ExitStack) -> None:
        """Open the layers in the directories *earlier*, bottom first, and the relocation below them."""
        from sandbox.state.earlier_layers import relocation_of  # most sandboxes have no earlier layers

        relocation = relocation_of(earlier)
        if relocation is not None:
            self._open_earlier(relocation, undo, relocation=True)
        for path in earlier:
            self._open_earlier(path, undo)

    def _open_earlier(self, path: str, undo: ExitStack, *, relocation: bool = False) -> None:
        """Open the earlier layer in the directory *path*, which goes above those that were opened before."""
        upper = os.path.join(path, "upper")
        try:
            fd = open_paths.open_real(upper, directory=True)
        except OSError as error:
            raise SetupError.from_os_error(f"earlier layer {upper}", "open", error) from None
        undo.callback(os.close, fd)
        self._earlier.append(
            ServedLayer(fd=fd, marks="all", squash=False, earlier=True, relocation=relocation)
        )

    def _leave_changes(self, home: RunDirectory) -> None:
        """Keep the layer in *home*, or remove it if the program never ran."""
        if self.program_ran:
            home.close()
        else:
            home.remove()

    def _remove_run(self) -> None:
        """Remove the run directory. A failure is only a warning: it does not change the program's exit status."""
        if self._cgroups_left:
            self.run.close()  # keep its record: the next command finds the remaining cgroups by it
            return
        try:
            self.run.remove()
            return
        except SandboxError as error:
            reason = error.message
        except OSError as error:
            reason = f"{self.run.path}: {error.strerror}"
        self._warn(f"the run directory cannot be removed, and the next command tries again: {reason}")

    def _chown_to_root(self) -> None:
        """Change the owner of the directories created for the sandbox to its root, if that is another id than the caller's."""
        homes = {id(home): home for home in (self.run, self._home) if home is not None}
        try:
            chown_to_root(self.plan.ids, *(fd for home in homes.values() for fd in home.unowned))
        except OSError as error:
            raise SetupError.from_os_error("writable layer", "chown", error) from None

    def _make_cgroup(self, undo: ExitStack) -> None:
        name = os.path.basename(self.run.path)
        plan = self.plan
        hierarchy = self._facts.cgroup_level(plan.cgroup_level)
        # Recorded first: if the launcher is killed during the creation, the next command removes the cgroup.
        self._leave_cgroups(hierarchy.paths_of(name))
        undo.callback(self._remove_cgroup)
        try:
            self.cgroup = hierarchy.create(
                name, plan.cgroup, plan.server_cgroup if self.served else CgroupLimits()
            )
            self._leave_cgroups(self.cgroup.paths)  # systemd may have created it elsewhere
        except OSError as error:
            raise SetupError.from_os_error("cgroup", "write cgroup", error) from None

    def _leave_cgroups(self, paths: tuple[str, ...]) -> None:
        if paths != self._cgroups_left:
            self.run.record({"cgroups": list(paths)})
            self._cgroups_left = paths

    def _make_cgroup_to_measure(self, undo: ExitStack) -> None:
        """Create a cgroup without limits if possible, because it counts more than wait4(2) reports."""
        if self.plan.cgroup_level == "none":
            reasons = self._facts.cgroups.unenforceable(CgroupLimits(memory=0))
            self.unmeasured = next(iter(reasons.values()), None)
            return
        try:
            self._make_cgroup(undo)
        except SetupError as error:
            self.unmeasured = error.message

    def _remove_cgroup(self) -> None:
        try:
            if self.cgroup is not None:
                self.cgroup.kill()
                self.cgroup.remove()
                self._cgroups_left = ()
            else:  # the creation failed, and its cleanup may have failed, too
                self._cgroups_left = cgroups.remove_stale(self._cgroups_left)
            reason = "it is in use"
        except OSError as error:
            reason = error.strerror or str(error)
        if self._cgroups_left:
            self._warn(
                f"cgroup {self._cgroups_left[0]} cannot be removed, and the next command tries again: {reason}"
            )

    @property
    def lasting_home(self) -> RunDirectory | None:
        """The directory of a writable layer that outlives the sandbox; None if there is no such layer."""
        return None if self._home is self.run else self._home

    def stack(self) -> ServedStack:
        """Return the request for the server: the layers, and how to serve them."""
        return ServedStack(
            layers=self._layers,
            upper_fd=self._upper_fd,
            work_fd=self._work_fd,
            later_fd=self._later_fd,
            hidden=[found.identity for found in self.plan.private if found.identity is not None],
            volatile=self.plan.writable == "ephemeral" and not self._keep_changes,
            index_fd=self._index_fd,
            fetcher_fd=self._fetcher_fd,
            server="auto" if self.plan.server == "none" else self.plan.server,
            open_requests=self.plan.open_requests,
            size=self.plan.size,
            inodes=self.plan.inodes,
        )


def _uses(plan: Plan) -> dict[str, object]:
    """Return the part of the run record that names the resources in use. No command removes these while the run exists."""
    return {
        "file": plan.record.file,
        "command": plan.process.argv,
        "layer": plan.name if plan.writable == "persistent" else None,
        "volumes": [volume.name for volume in plan.volumes],
        "archives": [layer.path for layer in plan.layers if layer.kind == "tar"],
        "images": list(dict.fromkeys(layer.path for layer in plan.layers if layer.kind == "image")),
    }
