"""What is stored, read back: a run, and the runs in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from fdfa_cli.data import data_root
from fdfa_cli.data.images import ImageData
from fdfa_cli.document.load import load
from fdfa_cli.errors import RunDamaged, Unsupported, UsageError
from fdfa_cli.lazy import torch
from fdfa_cli.network.base import Network
from fdfa_cli.network.modules import network_module
from fdfa_cli.recipe.resolve import resolve
from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.rules.base import Rule
from fdfa_cli.storage import RunFolder, Status, scan
from fdfa_cli.training import checkpoint, loop
from fdfa_cli.training.device import chosen
from fdfa_cli.training.state import TrainState

if TYPE_CHECKING:
    import pandas
    import polars

Split = Literal["train", "validation", "test"]


class Run:
    """A stored training: what its run folder held when this was made.

    Raises `UsageError` where there is no such folder, and `RunDamaged`, with file and reason, where it does
    not hold what it should.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._folder = RunFolder.open(Path(path))

    @classmethod
    def _of(cls, folder: RunFolder) -> Self:
        """The run whose folder has been read already."""
        run = cls.__new__(cls)
        run._folder = folder
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    # --- what the folder says ------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The folder in which the run is stored."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self._folder.name

    @property
    def status(self) -> Status:
        """What has become of it: completed, running, interrupted, pruned, diverged or failed."""
        return self._folder.status

    @property
    def error(self) -> str | None:
        """Why it did not come to its end."""
        return self._folder.record.error

    @property
    def summary(self) -> dict[str, float | None]:
        """The numbers at the end, such as ``test_accuracy``; None stands for one that is not finite."""
        return dict(self._folder.record.summary)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each epoch, with its ``epoch``, ``train_loss``, ``val_accuracy`` and more."""
        return self._folder.metrics()

    @cached_property
    def recipe(self) -> Recipe:
        """The complete recipe; raises `RecipeError` where a plugin that it needs is not loaded."""
        return resolve(load(self.path / "recipe.yaml")).recipe

    # --- what was trained ----------------------------------------------------------------------------

    def model(self, normalise: bool = False) -> torch.nn.Module:
        """The trained network in torch's own modules, on the CPU and in evaluation mode.

        It makes logits (B×C) of inputs x (B, *shape) float32 by the weights of the last checkpoint. The
        inputs are normalised as in training; with `normalise` the model does that itself, and takes images of
        the network's size with values in [0, 1]. The parameters are copies under the names that they have in
        the checkpoint.

        Raises `UsageError` where there is no checkpoint, or nothing to normalise; `Unsupported` where the
        rule does not classify by the network's logits (``ff``) or a layer has no module; `RunDamaged` where
        the checkpoint is not that of this run, and `DataNotFound` where the normalisation must be measured
        on data that is not there.
        """
        recipe = self.recipe
        if type(recipe.rule).predict is not Rule.predict:
            raise Unsupported(
                f"rule {recipe.rule.name} does not classify by the network's logits, so its network alone is "
                "no classifier; Run.evaluate tells its accuracy"
            )
        network = self._network()
        state = TrainState(recipe, network, recipe.training.batch_size, torch.device("cpu"))
        checkpoint.load_weights(self._checkpoint(), state)
        model = network_module(network, state.params, state.buffers)
        return self._normalising(model) if normalise else model

    def evaluate(self, split: Split = "test", device: str = "auto") -> dict[str, float]:
        """Mean loss and accuracy on a split of the run's data set, by the weights of the last checkpoint.

        The keys are ``loss`` and ``accuracy``; nothing for a split without samples. Raises `UsageError` where
        there is no checkpoint, `DataNotFound` where the data is not there, and `RunDamaged` where the
        checkpoint is not that of this run.
        """
        recipe = self.recipe
        training = recipe.training.model_copy(update={"device": device})
        where = torch.device(chosen(training))
        with torch.no_grad():
            splits = recipe.data.load(data_root(), where)
            state = TrainState(recipe, self._network(), len(splits.train), where)
            checkpoint.load(self._checkpoint(), state)
            (scores,) = loop.evaluate(state, getattr(splits, split), "")
        return {name.removeprefix("_"): value for name, value in scores.items()}

    def _network(self) -> Network:
        data = self.recipe.data
        return self.recipe.network.build(data.shape(), data.classes())

    def _checkpoint(self) -> Path:
        file = self._folder.checkpoint
        if not file.exists():
            raise UsageError(f"{self.path}: the run has no checkpoint, so no weights are stored")
        return file

    def _normalising(self, model: torch.nn.Module) -> torch.nn.Module:
        from fdfa_cli.network.torch_modules import Normalised

        data = self.recipe.data
        if not isinstance(data, ImageData):
            raise UsageError(f"data set {data.name!r} has no images, so there is nothing to normalise")
        file, _ = data.read(data_root())
        transform = data.transform(file)
        return Normalised(model, transform.scale * data.white, transform.shift).eval()


class Runs(Sequence[Run]):
    """Stored runs, of which `damaged` could not be read."""

    def __init__(self, runs: Iterable[Run], damaged: Sequence[RunDamaged] = ()) -> None:
        self._runs, self.damaged = list(runs), list(damaged)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __repr__(self) -> str:
        return f"Runs({self._runs!r})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run: what run.json says of it, then every key of its recipe (``optimizer.lr``).

        All rows have the same keys; None stands where a run has no such value.
        """
        from fdfa_cli.report.catalog import Catalog

        catalog = Catalog([run._folder for run in self._runs])
        found = [{**catalog.values(run._folder), **catalog.choices(run._folder)} for run in self._runs]
        names = dict.fromkeys(name for row in found for name in row)
        return [{name: row.get(name) for name in names} for row in found]

    def to_pandas(self) -> pandas.DataFrame:
        """The `rows` as a frame of pandas, which has to be installed."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_polars(self) -> polars.DataFrame:
        """The `rows` as a frame of polars, which has to be installed."""
        import polars

        return polars.DataFrame(self.rows(), infer_schema_length=None, strict=False)


def runs(path: str | PathLike[str] = "results", where: str | Sequence[str] = ()) -> Runs:
    """The runs in the folder `path` and in the sweeps and comparisons there, oldest first.

    `where` keeps those that meet all conditions, written as for ``fdfa report --where``:
    ``["rule=dfa,fdfa", "optimizer.lr>=1e-3"]``. Raises `UsageError` where there is no such folder or name.
    """
    from fdfa_cli.report.catalog import Catalog
    from fdfa_cli.report.select import Condition, select

    found = scan([Path(path)])
    conditions = [Condition.parse(text, "where") for text in ([where] if isinstance(where, str) else where)]
    meeting = select(Catalog(found.runs), conditions)
    meeting.sort(key=lambda folder: (folder.record.created, folder.name))
    return Runs((Run._of(folder) for folder in meeting), found.damaged)
