"""A task's life: admitted, queued, granted a slot, streamed into its log, kept for a while."""
