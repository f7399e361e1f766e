"""The document model of a report and its rendering as HTML, markdown, LaTeX and CSV."""
