"""Small PDFs, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 153.6, 46.08
"""Points; 320 x 96 px at 150 dpi, the size of `draw_page`."""


def text_pdf(
    *texts: str,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    rotate: int = 0,
    crop: Sequence[float] = (),
    trailer: str = "",
) -> bytes:
    """A born-digital PDF with a line of Helvetica on each page, none where the text is empty."""
    extra = f"/Rotate {rotate} " + (f"/CropBox [{' '.join(map(str, crop))}] " if crop else "")
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(texts)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, text in enumerate(texts):
        stream = f"BT /F1 13 Tf 12 20 Td ({text}) Tj ET" if text else ""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] {extra}"
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    body = "".join(f"{number} 0 obj\n{text}\nendobj\n" for number, text in enumerate(objects, start=1))
    return f"%PDF-1.7\n{body}trailer\n<< /Root 1 0 R /Size {len(objects) + 1} {trailer}>>\n%%EOF\n".encode()


def encrypted_pdf() -> bytes:
    """Its password is nothing that anybody knows."""
    secret = "<" + "5a" * 32 + ">"
    encrypt = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O {secret} /U {secret} /P -4 >> /ID [<01> <01>] "
    return text_pdf("secret", trailer=encrypt)
