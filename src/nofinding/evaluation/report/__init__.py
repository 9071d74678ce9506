"""The report's pages, pictures and remarks."""
