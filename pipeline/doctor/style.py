"""How the page looks: one style sheet, light, no script, nothing from elsewhere."""

STYLE = """
body { margin: 0; background: #f5f6f8; color: #1e2228; font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1800px; margin: 0 auto; padding: 24px 32px 80px }
h1 { font-size: 28px; margin: 0 }
h1 + p { margin: 2px 0 18px; color: #6e7680; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 34px 0 8px }
.tiles { display: flex; flex-wrap: wrap; gap: 10px }
.tiles div { background: #fff; border: 1px solid #e2e5e9; border-radius: 8px;
  padding: 10px 18px; min-width: 110px }
.tiles b { display: block; font-size: 22px; font-weight: 600; white-space: nowrap }
.tiles span { color: #6e7680; font-size: 13px }
table { border-collapse: collapse; background: #fff; border: 1px solid #e2e5e9; margin: 6px 0 }
th, td { text-align: left; padding: 4px 14px; border-bottom: 1px solid #eef0f2;
  vertical-align: top; overflow-wrap: anywhere }
th { color: #6e7680; font-weight: 500; font-size: 13px }
tbody tr:last-child td { border-bottom: 0 }
.n { text-align: right; font-variant-numeric: tabular-nums }
.note { color: #6e7680; max-width: 900px; margin: 6px 0 }
.good { color: #1a7f4b; margin: 20px 0 0 }
.bad { color: #b3261e; margin: 6px 0 }
details { background: #fff; border: 1px solid #e2e5e9; border-radius: 8px; margin: 6px 0;
  padding: 7px 14px }
summary { cursor: pointer; overflow-wrap: anywhere }
summary span { color: #6e7680 }
summary em { background: #b3261e; color: #fff; border-radius: 4px; padding: 0 7px;
  font-style: normal; font-size: 13px }
.take img { display: block; max-width: 100%; margin: 10px 0 }
code { background: #eef0f2; border-radius: 4px; padding: 1px 5px }
a { color: #1c5fb8 }
"""
