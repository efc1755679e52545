import { cleanup } from '@testing-library/react';
import { afterEach, beforeEach, vi } from 'vitest';

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(async () => {
  cleanup();
  // Subscriptions end some time after the unmount.
  await vi.advanceTimersByTimeAsync(1_000);
  vi.useRealTimers();
});
