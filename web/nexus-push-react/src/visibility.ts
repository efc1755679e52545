/** Longest delay of a browser's timer. */
const MAX_TIMEOUT_MS = 2_147_483_647;

/**
 * Calls `onHidden` when the tab has been hidden for `hiddenAfterMs`, and `onVisible` when it is shown again
 * after that. 0, Infinity and anything longer than 24 days mean never. Returns a function that stops it.
 */
export function watchVisibility(
  hiddenAfterMs: number,
  onHidden: () => void,
  onVisible: () => void,
): () => void {
  if (typeof document === 'undefined') return () => {};
  if (!(hiddenAfterMs > 0 && hiddenAfterMs <= MAX_TIMEOUT_MS)) return () => {};

  let timer: ReturnType<typeof setTimeout> | undefined;
  let told = false;
  const check = (): void => {
    clearTimeout(timer);
    if (document.visibilityState === 'hidden') {
      timer = setTimeout(() => {
        told = true;
        onHidden();
      }, hiddenAfterMs);
    } else if (told) {
      told = false;
      onVisible();
    }
  };
  // A tab can be opened in the background.
  check();
  document.addEventListener('visibilitychange', check);
  return () => {
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', check);
  };
}
