"""What people look at: tables, pictures, pages, model cards."""
