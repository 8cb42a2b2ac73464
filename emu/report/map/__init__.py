"""Maps of address spaces: one page of HTML that needs nothing else, and draws itself."""
