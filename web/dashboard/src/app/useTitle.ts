import { useEffect } from 'react';

const NAME = 'nexus-push';

/** Puts `text` into the title of the tab while the component is mounted. */
export function useTitle(text: string): void {
  useEffect(() => {
    document.title = `${text} · ${NAME}`;
    return () => {
      document.title = NAME;
    };
  }, [text]);
}
