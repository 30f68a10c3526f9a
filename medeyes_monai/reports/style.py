"""How the report looks: plain, in light and dark, on a narrow screen and on paper."""

__all__ = ["CONTENT_POLICY", "STYLE"]

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing from elsewhere, and no scripts."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #5a5a5a; --line: #d0d0d0;
  --panel: #f5f5f5; --right: #00644a; --wrong: #a63f00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --soft: #a8a8a8;
  --line: #444444; --panel: #222222; --right: #4fd3a7; --wrong: #ff9d5c; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2rem; } h3 { font-size: 1.1rem; margin: 0; }
h1, h3, p, dd { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
tr > th:first-child { text-align: left; font-weight: 400; } thead th { font-weight: 600; }
img { max-width: 100%; height: auto; image-rendering: pixelated; }
img.curves { background: #ffffff; border-radius: 4px; image-rendering: auto; }
article { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: 1rem; }
.meta { color: var(--soft); margin: 0.2rem 0 0.6rem; font-size: 0.9rem; }
.path { display: grid; grid-template-columns: minmax(16rem, 1fr) minmax(16rem, 1fr); gap: 1.5rem; }
@media (max-width: 44rem) { .path { grid-template-columns: 1fr; } }
ol { margin: 0; padding-left: 1.6rem; } li { margin-bottom: 0.8rem; break-inside: avoid; }
pre { margin: 0 0 0.4rem; padding: 0.5rem; background: var(--panel); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem; margin: 0.5rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
img.attention, img.planes { display: block; }
img.planes { background: #000000; border-radius: 4px; image-rendering: auto; }
.verdict { font-weight: 700; margin: 0.5rem 0 0; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.filter { font-weight: 600; margin-right: 0.5rem; } input + label { margin: 0 0.9rem 0 0.25rem; }
@media print { main { max-width: none; padding: 0; } .path { grid-template-columns: 1fr 1fr; }
  img.crop { max-width: 9rem; } h3 { break-after: avoid; } }
"""
