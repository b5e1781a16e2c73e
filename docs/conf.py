"""How Sphinx builds the manual: ``sphinx-build -W --keep-going -b html docs OUT``.

The packages of this repository must be installed (requirements-dev.txt): the reference is
generated from them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "PyStream"
author = "The PyStream developers"
project_copyright = author
release = version = "1.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "registered",
    "repository",
]
exclude_patterns = ["examples/**", "requirements.txt", "_ext/**"]

default_role = "code"  # what the help of a command has between single backticks
smartquotes_action = "D"  # dashes only: quotes belong to code as often as to prose

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autoclass_content = "both"
autodoc_inherit_docstrings = False
maximum_signature_line_length = 78
python_use_unqualified_type_names = True
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

# Templates with $names in them are shown as Python all the same; other code is run by the tests.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "PyStream"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "tango"
