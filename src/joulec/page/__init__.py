"""The page of ``joulec compile --report``: one HTML file that needs no other and opens without a network."""

from joulec.page.write import check_page, write_page

__all__ = ["check_page", "write_page"]
