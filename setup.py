"""Compiles csrc/ on the way, if that can be done; everything else about the package stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from dynconv_mt.ops.build import BuildError, build, build_cuda, chosen_archs, consequence  # noqa: E402  (this checkout's)


class BuildKernels(build_ext):
    """Leaves the compiling to dynconv_mt.ops.build; without a compiler, or without torch, the package does without."""

    def targets(self) -> list[Path]:
        """Return where the libraries belong: in the tree for editable installations, else in the wheel to be."""
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "dynconv_mt" / "ops"
        return [folder / "_C.so", folder / "_C_cuda.so"]

    def run(self) -> None:
        target, cuda = self.targets()
        if not self.inplace:  # what an earlier run with other options left in build/ is not to be in this wheel
            for left in (target, cuda):
                left.unlink(missing_ok=True)
        try:
            build(target, ROOT / "csrc")
            target = cuda
            if archs := chosen_archs(None):
                build_cuda(archs, cuda, ROOT / "csrc")
        except BuildError as error:
            print(consequence(target, error), file=sys.stderr)

    def get_outputs(self) -> list[str]:
        return [] if self.inplace else [str(path) for path in self.targets() if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3: the libraries know nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("dynconv_mt.ops._C", sources=[])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
