"""Write configs/schema/*.json: what the config files may hold, for editors that read `#:schema` (Taplo, Tombi)."""

from pathlib import Path

from dvsft.labeler import config as labeler
from dvsft.patchlabels.settings import Settings, schema
from dvsft.trainer import config as trainer

FOLDER = Path(__file__).parent / "configs/schema"
KINDS: dict[str, type[Settings]] = {"label": labeler.Config, "train": trainer.Config}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, kind in KINDS.items():
        (FOLDER / f"{name}.json").write_text(schema(kind), encoding="utf-8")
