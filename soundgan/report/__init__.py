"""What people look at and listen to: samples, pictures, scores and the page that shows them."""

from soundgan.report.notebook import run_command
from soundgan.report.page import show, write_overview, write_page, write_pages

__all__ = ["run_command", "show", "write_overview", "write_page", "write_pages"]
