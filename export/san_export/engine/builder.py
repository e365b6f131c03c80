"""A graph through TensorRT's parser and builder: one path for TensorRT 10.3 to 11 and TensorRT-RTX.

What differs between them is recognised by the attributes that they have, never by their version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, PrecisionStats
from san_deploy.backends.trt import collected, logger, one_line, version
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import atomic_file

from .inspect import count_in_network
from .progress import Phases, interruptible, monitor

Report = Callable[[str], None]
#: Like `san_deploy.io.progress.bar`: total, label and unit in, a context manager out that gives `advance`.
Progress = Callable[[int, str, str], AbstractContextManager[Callable[[int], None]]]

#: Our names of TensorRT's levels of hardware compatibility.
LEVELS = {"none": "NONE", "same-sm": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        batch: least, best and largest number of crops per run.
        workspace_mib: memory that kernels may use besides, MiB; None lets TensorRT take what the GPU has.
        timing_cache: a file of kernel timings, read where it exists, and written.
        tf32: let FP32 convolutions run in TF32: faster on Ampere and later, 10 bits of mantissa.
        hardware_compatibility: `none`, `same-sm` or `ampere+`: which other GPUs may run it.
        version_compatible: let later TensorRT run it. Such a plan carries code that runs on the host.
        targets: compute capabilities to build for, `sm86`, ...; TensorRT-RTX alone. Empty: the GPUs that are here, or
            else all from 8.0 on.
        optimization_level: 0 to 5, how long TensorRT may search; None lets it choose.
        device: index of the GPU that it is built and run on.
        crops: a folder of crops to run the plan on; None takes the sample crops.
    """

    batch: tuple[int, int, int] = (1, 16, 64)
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    tf32: bool = False
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    targets: tuple[str, ...] = ()
    optimization_level: int | None = None
    device: int = 0
    crops: Path | None = None


@dataclass(frozen=True)
class Built:
    """What TensorRT made.

    Attributes:
        plan: the engine, a `trt.IHostMemory`, which is a buffer.
        operands: of the typed network.
        size: of the input, without the batch.
    """

    plan: Any
    operands: PrecisionStats
    size: tuple[int, ...]


def build_plan(
    trt: ModuleType,
    data: bytes,
    path: Path,
    options: BuildOptions,
    *,
    targets: tuple[str, ...],
    on: Callable[[], None],
    check: Callable[[PrecisionStats], None],
    report: Report,
    progress: Progress | None,
) -> Built:
    """Parse an ONNX file and build it.

    Args:
        trt: TensorRT's module.
        data: the file's bytes.
        path: the file, for messages.
        options: of the build.
        targets: compute capabilities to build for, ahead of time; empty for the GPU that is here.
        on: makes the GPU that is built on the current one of the calling thread; called in each that builds.
        check: raises where the typed network is not what was asked for; called before the long part.
        report: takes one line for each step.
        progress: shows per cent.

    Raises:
        UsageError: this TensorRT has not what an option asks for.
        SanError: the parser or the builder refuses.
        KeyboardInterrupt: after TensorRT has stopped.
    """
    name = f"{trt.__name__} {version(trt)}"
    on()
    with collected() as messages:
        try:
            builder = trt.Builder(logger(trt))
        except TypeError as error:  # how the bindings say that it could not be made
            raise SanError(f"{name} does not start", why=messages.why() or one_line(str(error))) from error
        network = _given(builder.create_network(_flags(trt)), "a network", name, messages.why)
        parser = trt.OnnxParser(network, logger(trt))
        _parse(parser, data, path, name, messages.why)
        size = _input_size(network, path)
        operands = count_in_network(trt, network)
        check(operands)
        config = _given(builder.create_builder_config(), "a configuration", name, messages.why)
        _configure(trt, config, options, name)
        if targets:
            _aim(trt, config, targets, name)
        if options.timing_cache is not None:
            _take_timings(config, options.timing_cache, name, report, messages.why)
        profile = _given(builder.create_optimization_profile(), "a profile", name, messages.why)
        profile.set_shape(INPUT_NAME, *((crops, *size) for crops in options.batch))
        if config.add_optimization_profile(profile) < 0:
            raise SanError(f"{name} refuses a profile of {options.batch} crops per run", why=messages.why())

        def build(advance: Callable[[int], None]) -> Any:
            phases = Phases(advance)
            config.progress_monitor = monitor(trt, phases)

            def cancel() -> None:
                report("stopping TensorRT at its next step")
                phases.cancel()

            def work() -> Any:
                # CUDA's current device is of each thread, and this is another one.
                on()
                return builder.build_serialized_network(network, config)

            return interruptible(work, cancel)

        with progress(100, "building", "%") if progress else contextlib.nullcontext(_unseen) as advance:
            plan = build(advance)
        if options.timing_cache is not None:
            _keep_timings(config, options.timing_cache, report)
        if plan is None:
            raise SanError(f"{name} cannot build an engine of {path}", why=messages.why())
    return Built(plan, operands, size)


def known_targets(trt: ModuleType) -> list[str]:
    """Compute capabilities that this TensorRT can build for ahead of time, `sm75`, ...; empty where it cannot."""
    capabilities = getattr(trt, "ComputeCapability", None)
    members = getattr(capabilities, "__members__", {})
    return sorted((member.lower() for member in members if member[2:].isdigit()), key=lambda sm: int(sm[2:]))


def _unseen(percent: int) -> None:
    pass


def _given(item: Any, what: str, name: str, why: Callable[[], str]) -> Any:
    if item is None:
        raise SanError(f"{name} does not make {what}", why=why())
    return item


def _flags(trt: ModuleType) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return 1 << int(flags.STRONGLY_TYPED)
    if hasattr(trt.BuilderFlag, "FP16"):
        raise SanError(
            f"{trt.__name__} {version(trt)} has no strongly typed networks",
            why="without them it may compute in another precision than the file has",
            do="use TensorRT 10.3 or later (JetPack 6.1 or later)",
        )
    # No flag and no weak typing: every network is strongly typed.
    return 0


def _parse(parser: Any, data: bytes, path: Path, name: str, why: Callable[[], str]) -> None:
    if parser.parse(data) and not parser.num_errors:
        return
    lines = []
    for index in range(parser.num_errors):
        problem = parser.get_error(index)
        node = f"node {problem.node()} {problem.node_name()} {problem.node_operator()}".strip()
        lines.append(f"{one_line(problem.desc())} ({node}; {Path(problem.file()).name}:{problem.line()})")
    raise SanError(f"{name} cannot parse {path}", why="; ".join(lines) or why())


def _input_size(network: Any, path: Path) -> tuple[int, ...]:
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    names += [network.get_output(index).name for index in range(network.num_outputs)]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise SanError(f"{path} has the inputs and outputs {', '.join(names)} in TensorRT")
    free, *size = tuple(network.get_input(0).shape)
    if free != -1 or any(length < 1 for length in size):
        raise SanError(
            f"the input of {path} is {(free, *size)} in TensorRT, where only the first may be free"
        )
    return tuple(size)


def _configure(trt: ModuleType, config: Any, options: BuildOptions, name: str) -> None:
    # Without details the inspector tells no precision.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TensorRT sets it by itself, which costs FP32 three decimal places on Ampere and later.
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        levels = trt.HardwareCompatibilityLevel
        level = LEVELS[options.hardware_compatibility]
        if not hasattr(levels, level):
            has = [ours for ours, theirs in LEVELS.items() if hasattr(levels, theirs)]
            raise UsageError(
                f"{name} has no hardware compatibility '{options.hardware_compatibility}'",
                do=f"choose among {', '.join(has)}",
            )
        config.hardware_compatibility_level = getattr(levels, level)
    if options.workspace_mib is not None:
        asked = options.workspace_mib << 20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, asked)
        if config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) != asked:
            raise UsageError(f"{name} refuses a workspace of {options.workspace_mib} MiB")
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
        if config.builder_optimization_level != options.optimization_level:
            raise UsageError(
                f"{name} has no optimization level {options.optimization_level}", do="give one of 0 to 5"
            )


def _aim(trt: ModuleType, config: Any, targets: tuple[str, ...], name: str) -> None:
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper())
        if not config.set_compute_capability(capability, index):
            raise SanError(f"{name} refuses {target}", do=f"it knows {', '.join(known_targets(trt))}")


def _take_timings(config: Any, path: Path, name: str, report: Report, why: Callable[[], str]) -> None:
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise SanError(f"cannot read the timing cache {path}: {error.strerror or error}") from error
    cache = config.create_timing_cache(stored)
    # Timings of another GPU would choose kernels that are slow here.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise SanError(
            f"the timing cache {path} is damaged, or of another GPU or TensorRT than {name}",
            why=why(),
            do="name another file, or remove it",
        )
    report(f"timing cache {path}: {f'read, {len(stored) / 1e6:.1f} MB' if stored else 'new'}")


def _keep_timings(config: Any, path: Path, report: Report) -> None:
    """Write the timings, those of this build too, even where no plan came out: they took the time."""
    try:
        cache = config.get_timing_cache()
        if cache is None:
            raise SanError("TensorRT has none")
        # Another build may have written the file meanwhile.
        if path.exists():
            other = config.create_timing_cache(path.read_bytes())
            if other is None or not cache.combine(other, ignore_mismatch=False):
                raise SanError(f"{path} was replaced meanwhile, by one of another GPU or TensorRT")
        serialized = cache.serialize()
        if serialized is None:
            raise SanError("TensorRT does not give it")
        with atomic_file(path) as temporary:
            temporary.write_bytes(serialized)
        report(f"timing cache {path}: written, {serialized.nbytes / 1e6:.1f} MB")
    except (SanError, OSError) as error:
        # The engine is worth more than the time that its next build would save.
        report(f"the timing cache was not written: {error}")
