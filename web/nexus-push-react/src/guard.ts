/**
 * Calls a function of the application, and reports its exceptions as uncaught errors. They must not reach
 * the SDK, which ends the connection permanently when a handler throws.
 */
export function guarded<A extends unknown[]>(fn: (...args: A) => void, ...args: A): void {
  try {
    fn(...args);
  } catch (error) {
    report(error);
  }
}

function report(error: unknown): void {
  if (typeof reportError === 'function') {
    reportError(error);
    return;
  }
  setTimeout(() => {
    throw error;
  });
}
