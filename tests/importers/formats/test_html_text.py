"""Answers in HTML become readable text again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.importers.formats.html_text import text_of_html


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("Sow in March.", "Sow in March."),
        ("<p>Sow in <strong>March</strong>.</p><p>Or <em>April</em>.</p>", "Sow in **March**.\n\nOr *April*."),
        ("<p>Sow\n   in\tMarch.</p>\n<p>Then wait.</p>\n", "Sow in March.\n\nThen wait."),
        ("First.<br>Second.<br/>Third.", "First.\nSecond.\nThird."),
        ("<h2>Peas</h2><p>Sow.</p>", "## Peas\n\nSow."),
        ("<p>Two:</p><ul><li>peas</li><li>beans</li></ul><p>Done.</p>", "Two:\n\n- peas\n- beans\n\nDone."),
        ("<ol>\n<li><p>dig</p></li>\n<li><p>sow</p></li>\n</ol>", "1. dig\n2. sow"),
        (
            "<ul><li>peas<ul><li>early</li><li>late</li></ul></li><li>beans</li></ul>",
            "- peas\n  - early\n  - late\n- beans",
        ),
        ("<pre><code>def sow():\n    return 'peas'\n</code></pre>", "```\ndef sow():\n    return 'peas'\n```"),
        ("<p>Run <code>sow()</code> now.</p>", "Run `sow()` now."),
        (
            "<table><tr><th>crop</th><th>month</th></tr><tr><td>peas</td><td>3</td></tr></table>",
            "crop | month\npeas | 3",
        ),
        ("<p>3 &lt; 4 &amp;&amp; &#39;a&#39;&nbsp;b</p>", "3 < 4 && 'a' b"),
        ("<style>p {}</style><script>sow()</script><p>Peas.</p>", "Peas."),
        ("<p>unclosed <b>bold", "unclosed **bold"),
        ("</ul></pre></p>Peas.</div>", "Peas."),
        ("Peas <unknown>and</unknown> beans", "Peas and beans"),
        ("", ""),
    ],
)
def test_html_becomes_text(html: str, expected: str) -> None:
    assert text_of_html(html) == expected


@given(
    st.lists(st.sampled_from(("<ul>", "</ul>", "<li>", "<pre>", "</pre>", "<p", ">", "&", "<!--", "a", "\n", "]]>")))
)
def test_damaged_html_has_a_text(pieces: list[str]) -> None:
    assert text_of_html("".join(pieces)).count("a") <= pieces.count("a")
