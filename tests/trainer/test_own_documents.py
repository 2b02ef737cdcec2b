"""The page "Label your own documents": its files and commands, on a folder of mixed documents."""

import json
import re
import sys
from pathlib import Path

from support import ROOT, SAMPLES, draw_page, encode, read_all, rejects

from dvsft.patchlabels import command

PAGE = (ROOT / "docs/how-to/documents.md").read_text()
WORDS = [("Total", (24, 36, 95, 58)), ("42", (103, 36, 135, 58))]


def alto(pages: int) -> str:
    """The words of so many pages, in tenths of a millimeter at 150 dpi."""
    unit = 254 / 150
    strings = "".join(
        f'<String CONTENT="{text}" HPOS="{x0 * unit}" VPOS="{y0 * unit}" WIDTH="{(x1 - x0) * unit}" '
        f'HEIGHT="{(y1 - y0) * unit}"/>'
        for text, (x0, y0, x1, y1) in WORDS
    )
    page = f'<Page WIDTH="{320 * unit}" HEIGHT="{96 * unit}"><PrintSpace>{strings}</PrintSpace></Page>'
    return f"<alto><MeasurementUnit>mm10</MeasurementUnit><Layout>{page * pages}</Layout></alto>"


def write_documents(folder: Path) -> None:
    """Seven pages in four files: a PDF, a TIFF whose third page has no words, a PNG, and one without words."""
    page = draw_page()
    scans = {
        "2023/invoice-0001.pdf": (encode(page, "PDF", save_all=True, append_images=[page], resolution=150), 2),
        "2023/invoice-0002.tif": (encode(page, "TIFF", save_all=True, append_images=[page, page]), 2),
        "letters/a.png": (encode(page), 1),
        "letters/b.png": (encode(page), 0),
    }
    for name, (data, pages) in scans.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        if pages:
            target.with_suffix(".xml").write_text(alto(pages))


def test_mixed_documents_with_alto_beside_them_train_a_model_without_questions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dvsft"])
    Path("processor").symlink_to(SAMPLES / "processor")
    write_documents(Path("documents"))
    for name, text in zip(
        ("documents.toml", "train.toml"), re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL), strict=True
    ):
        Path(name).write_text(text)
    commands = re.findall(r"^    dvsft (.*)$", PAGE, re.MULTILINE)
    assert [line.split()[0] for line in commands] == ["label", "preview", "tiny", "train"]
    for line in commands:
        assert not command.main(line.split()), capsys.readouterr().err

    rows = read_all(Path("out/documents"))
    assert [row["id"].removeprefix("invoices/train/") for row in rows] == [
        "2023/invoice-0001.pdf",
        "2023/invoice-0001.pdf#2",
        "2023/invoice-0002.tif",
        "2023/invoice-0002.tif#2",
        "letters/a.png",
    ]
    assert rejects(Path("out/documents")) == {
        "invoice-0002.tif#3": ("words", "no_words_of_page"),
        "b.png": ("source", "no_words"),
    }
    assert "pages read                                   7" in capsys.readouterr().out
    assert len({(*row["patch_index"], *row["token_id"]) for row in rows}) == 1 and rows[0]["qa"] == []
    steps = [json.loads(line) for line in Path("out/run/log.jsonl").read_text().splitlines()]
    assert [step["vision_labels"] for step in steps] == [4, 4, 2] and not any(step["text_labels"] for step in steps)
    assert list(Path("out/run/final").glob("*.safetensors"))
