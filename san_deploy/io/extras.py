"""What to ask pip for: the extra that brings a missing package, and packages that lie over each other."""

from __future__ import annotations

#: What pip is given: the checkout, as long as no index has san-deploy.
SOURCE = "."

#: Module -> the extra that brings it.
EXTRA_OF = {
    "cv2": "video",
    "h5py": "cuhk03",
    "onnx": "convert",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "psycopg": "postgres",
    "safetensors": "train",
    "scipy": "cuhk03",
    "tensorboard": "train",
    "torch": "train",
}

#: Module -> what people call it, and the distributions that install it, each over the others' files. The one to keep
#: stands first: what was put there on purpose, or has the most in it.
BUILDS = {
    "onnxruntime": (
        "ONNX Runtime",
        (
            "onnxruntime-gpu",
            "onnxruntime-openvino",
            "onnxruntime-directml",
            "onnxruntime-qnn",
            "onnxruntime-training",
            "onnxruntime",
        ),
    ),
    "cv2": (
        "OpenCV",
        (
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
            "opencv-python-headless",
            "opencv-python",
        ),
    ),
}


class InstallWarning(UserWarning):
    """Two packages lie over each other. It works until one of them is removed or renewed."""


def install(*extras: str) -> str:
    """The command that installs extras of ours: `pip install '.[export,cpu]' (in the checkout)`."""
    where = " (in the checkout)" if SOURCE == "." else ""
    return f"pip install '{SOURCE}[{','.join(extras)}]'{where}"


def conflict(module: str) -> str:
    """What is wrong with the builds of a module in this environment, and the command that mends it; empty if nothing.

    Args:
        module: a key of `BUILDS`.
    """
    from .versions import versions

    name, builds = BUILDS[module]
    found = versions(*builds)
    if len(found) < 2:
        return ""
    listed = " and ".join(f"{build} {version}" for build, version in found.items())
    others = " ".join(list(found)[1:])
    return (
        f"{len(found)} builds of {name} are installed over each other, {listed}, and which one runs is chance. "
        f"Keep one: pip uninstall -y {others} && {reinstall(module)}"
    )


def reinstall(module: str) -> str:
    """The command that puts back all files of the build that is to be kept; empty where none is installed."""
    from .versions import versions

    for build, version in versions(*BUILDS[module][1]).items():
        return f"pip install --force-reinstall --no-deps {build}=={version}"
    return ""
