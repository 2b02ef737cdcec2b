"""Pages for people: their cells, whatever the layout."""

import json

import numpy as np
import pytest
from PIL import Image
from support import SPECS, assert_nothing_ran, spec_of

from dvsft.patchlabels import webpage


@pytest.mark.parametrize("family", SPECS)
def test_every_visual_token_that_sees_something_is_a_cell_of_its_view(family):
    layout = spec_of(family).fit(1000, 700)
    rects = np.clip(layout.rects(), 0, [1000, 700, 1000, 700])
    seen = {k for k, (x0, y0, x1, y1) in enumerate(rects) if x0 < x1 and y0 < y1}
    views = webpage.views(layout)
    single = views[-len(layout.views) :]
    assert sorted(k for view in single for k, *_ in view["cells"]) == sorted(seen)
    for view in views:
        assert all(box == pytest.approx(rects[k], abs=0.051) for k, *box in view["cells"])
    if len(views) > len(single):
        thumbnails = {k for k in seen if layout.views[layout.view_index()[k]].thumbnail}
        assert {k for k, *_ in views[0]["cells"]} == seen - thumbnails


def test_views_are_switched_and_show_their_own_cells(chromium, tmp_path):
    layout = spec_of("internvl").fit(896, 448)
    picture = webpage.picture(Image.new("RGB", (896, 448), "white"))
    data = {"image": picture, "width": 896, "height": 448, "views": webpage.views(layout)}
    script = (
        "const viewer = new Viewer(document.body, data, k => ({tokens: [String(k)]}));"
        "tools(make('div', document.body), [viewer]);"
    )
    (tmp_path / "page.html").write_text(webpage.document("Views", "", script, data), encoding="utf-8")
    chromium.get((tmp_path / "page.html").as_uri())
    options = chromium.find_elements("css selector", "select option")
    assert [option.text for option in options] == [
        "all 2 tiles",
        "tile 1, 16 x 16",
        "tile 2, 16 x 16",
        "thumbnail, 16 x 16",
    ]

    def shown():
        return chromium.execute_script(
            "return [...document.querySelectorAll('.token')].map(token => +token.textContent)"
        )

    assert shown() == list(range(512))
    for option, first in zip(options[1:], (0, 256, 512), strict=True):
        option.click()
        assert shown() == list(range(first, first + 256))
    assert_nothing_ran(chromium)


def test_data_cannot_close_the_script_that_holds_it():
    hostile = {"</script><!--": "</script><script>x</script> & \u2028"}
    document = webpage.document("<b>", "", "", hostile)
    assert document.count("</script>") == 1 and "<!--" not in document and "<b>" not in document
    assert json.loads(webpage.safe_json(hostile)) == hostile
