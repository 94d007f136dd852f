"""Write the pages of the three studies: tables, sentences and figures."""
