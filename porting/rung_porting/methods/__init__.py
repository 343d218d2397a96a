"""What makes smaller versions, each a small class behind one interface (`interface`)."""
