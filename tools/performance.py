from pathlib import Path
PAGE = Path("docs/performance.md")
def page(): return "# performance\n"
def draw(): pass
