import { cleanup } from '@testing-library/react';
import { afterEach, beforeEach, vi } from 'vitest';

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(async () => {
  cleanup();
  // What was unmounted is let go of after a moment.
  await vi.advanceTimersByTimeAsync(1_000);
  vi.useRealTimers();
});
